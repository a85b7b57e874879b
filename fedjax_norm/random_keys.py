"""The random keys of a run: one per purpose, so that different purposes draw independently."""

import enum

import jax

from fedjax_norm.typing import Key


class Stream(enum.IntEnum):
  """The purposes of random keys; changing a number would change the results of every seed."""

  INIT = 0
  COHORT = 1
  DATA = 2
  DROPOUT = 3
  NOISE = 4
  SELECTION = 5
  MODEL_TRAVELING = 6
  FINE_TUNE = 7
  SAMPLE = 8
  TURN = 9  # the order in which the clients of split learning train
  DECODER = 10
  DISTIL = 11  # distillation of several models into one


def stream(key: Key, purpose: Stream) -> Key:
  """Returns the key for one purpose, derived from the run's key ``key``."""
  return jax.random.fold_in(key, int(purpose))
