"""The errors a user can act on: one sentence that says what was wrong and what to do."""


class UserError(ValueError):
  """Bad input: a flag, a path, a file, a shape or a combination of them."""


class DivergedError(UserError):
  """Training produced a loss that is not finite."""


class LostError(UserError):
  """Another process of the run died or cannot be reached."""
