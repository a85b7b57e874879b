"""Whose turn it is, and what the steps are called."""

from collections.abc import Collection

STEPS = 2**20
"""More steps than a turn has."""


def step_id(turn: int, local_step: int) -> int:
  """(round, client, local step) as one number, which rises: turn = round * clients + client."""
  return turn * STEPS + local_step


def described(step: int, clients: int) -> str:
  """A step's number in words."""
  turn, local_step = divmod(step, STEPS)
  return f"step {local_step} of client {turn % clients} in round {turn // clients}"


def following(turn: int, clients: int, ready: Collection[int]) -> int | None:
  """The first turn after one whose client is ready, as they come round; None if nobody is.

  Args:
    turn: the one that is passed over.
    clients: how many.
    ready: the clients that are there.
  """
  turns = range(turn + 1, turn + clients)
  return next((later for later in turns if later % clients in ready), None)
