"""The errors that one end of a connection tells the other."""

from fedjax_norm.errors import LostError, UserError


class OutOfOrderError(UserError):
  """A request that does not follow on what went before, so that its sender has to ask again."""


class RefusedError(UserError):
  """What the other end had to say against a request."""


class FailedError(RefusedError, LostError):
  """The other end could not do what it was asked."""
