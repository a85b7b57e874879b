"""Errors that one end of a connection reports to the other."""

from fedjax_norm.errors import LostError, UserError


class OutOfOrderError(UserError):
  """The server expects another request now; the sender has to ask for the turn again."""


class RefusedError(UserError):
  """The other end refused a request."""


class FailedError(RefusedError, LostError):
  """The other end could not carry out a request."""
