"""The streams of chance of a run: one key per purpose, so that no two purposes share a draw."""

import enum

import jax

from fedjax_norm.typing import Key


class Stream(enum.IntEnum):
  """What a key is for; the numbers are part of what a seed means."""

  INIT = 0
  COHORT = 1
  DATA = 2
  DROPOUT = 3
  NOISE = 4
  SELECTION = 5
  TRAVEL = 6
  FINE_TUNE = 7
  SAMPLE = 8
  TURN = 9
  DECODER = 10
  DISTIL = 11


def stream(key: Key, purpose: Stream) -> Key:
  """The key of one purpose, from the key of the run."""
  return jax.random.fold_in(key, int(purpose))
