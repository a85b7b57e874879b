"""Numbers the local steps of a run: one integer encodes the round, the client and the step."""

MAX_STEPS = 2**20
"""A turn has fewer local steps than this."""


def step_id(turn: int, local_step: int) -> int:
  """Returns the number of a local step in the run, where turn = round * clients + client."""
  return turn * MAX_STEPS + local_step
