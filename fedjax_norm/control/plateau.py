"""Lowers the learning rate when the training loss has stopped falling (paper 001)."""

import functools
from typing import NamedTuple

import jax
import numpy as np
from optax import GradientTransformationExtraArgs, contrib

from fedjax_norm.typing import Array, PyTree


class Plateau(NamedTuple):
  """Applies the rule of ``optax.contrib.reduce_on_plateau`` at every evaluation.

  Attributes:
    factor: factor that multiplies the learning rate at a plateau.
    patience: number of consecutive evaluations without a lower loss that make a plateau.
    tolerance: least decrease of the loss that counts, as a share of the lowest loss so far.
    start: last round of the learning rate's warm-up; earlier evaluations are ignored.
  """

  factor: float = 0.1
  patience: int = 3
  tolerance: float = 1e-3
  start: int = 0

  def init(self) -> PyTree:
    """Returns the initial state in host memory; ``scale`` in it multiplies the learning rate."""
    return jax.tree.map(np.asarray, self._transform().init(np.float32(0)))

  def observe(self, state: PyTree, loss: float, round: int) -> PyTree:
    """Returns the state after an evaluation before ``round``, given the training loss."""
    if round <= self.start:
      return state
    return jax.tree.map(np.asarray, _update(self, state, np.float32(loss)))

  def _transform(self) -> GradientTransformationExtraArgs:
    return contrib.reduce_on_plateau(self.factor, self.patience, self.tolerance)


@functools.partial(jax.jit, static_argnums=0)  # else every evaluation would compile it
def _update(plateau: Plateau, state: PyTree, loss: Array) -> PyTree:
  return plateau._transform().update(np.float32(0), state, value=loss)[1]
