"""Whose turn it is, and what the steps are called."""

STEPS = 2**20
"""More steps than a turn has."""


def step_id(turn: int, local_step: int) -> int:
  """(round, client, local step) as one number, which rises: turn = round * clients + client."""
  return turn * STEPS + local_step
