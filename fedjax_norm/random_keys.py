"""The random number streams of a run: one key per purpose, so that draws are independent."""

import enum

import jax

from fedjax_norm.typing import Key


class Stream(enum.IntEnum):
  """The purpose of a key; changing a number changes the results of every seed."""

  INIT = 0
  COHORT = 1
  DATA = 2
  DROPOUT = 3
  NOISE = 4
  SELECTION = 5
  MODEL_TRAVELING = 6
  FINE_TUNE = 7
  SAMPLE = 8
  TURN = 9
  DECODER = 10
  DISTIL = 11


def stream(key: Key, purpose: Stream) -> Key:
  """Returns the key of one purpose, derived from the key of the run."""
  return jax.random.fold_in(key, int(purpose))
