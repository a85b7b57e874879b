"""When the learning rate is lowered because the loss has stopped falling (paper 001)."""

import functools
from typing import NamedTuple

import jax
import numpy as np
from optax import contrib

from fedjax_norm.typing import Array, PyTree


class Plateau(NamedTuple):
  """The policy of ``optax.contrib.reduce_on_plateau``, asked once an evaluation.

  Attributes:
    factor: multiplies the rate when the loss has not fallen for ``patience`` looks in a row.
    patience: looks.
    tolerance: the least fall that counts, as a share of the best loss.
    start: the round up to which looks are left out, the end of the warm-up.
  """

  factor: float = 0.1
  patience: int = 3
  tolerance: float = 1e-3
  start: int = 0

  def init(self) -> PyTree:
    """The state before the first look, host arrays; ``scale`` multiplies the schedule's rate."""
    return jax.tree.map(np.asarray, self._transform().init(np.float32(0)))

  def observe(self, state: PyTree, loss: float, round: int) -> PyTree:
    """The state after a look.

    Args:
      state: before it.
      loss: the training loss since the last look.
      round: the round before which the look is taken.
    """
    if round <= self.start:
      return state
    return jax.tree.map(np.asarray, _look(self, state, np.float32(loss)))

  def _transform(self):
    return contrib.reduce_on_plateau(self.factor, self.patience, self.tolerance)


@functools.partial(jax.jit, static_argnums=0)  # or each look would compile anew
def _look(plateau: Plateau, state: PyTree, loss: Array) -> PyTree:
  return plateau._transform().update(np.float32(0), state, value=loss)[1]
