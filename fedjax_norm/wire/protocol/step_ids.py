"""Step numbers: one integer for the round, the client and the local step."""

MAX_STEPS = 2**20
"""Upper bound, exclusive, on the local steps of a turn."""


def step_id(turn: int, local_step: int) -> int:
  """Returns the increasing number of a step, where turn = round * clients + client."""
  return turn * MAX_STEPS + local_step
