"""The loss and the accuracy of training, as sums over examples."""

from typing import NamedTuple

import jax.numpy as jnp

from fedjax_norm.objectives import Objective, find
from fedjax_norm.typing import Array, Batch


class Metrics(NamedTuple):
  """Sums over training examples, so that metrics are merged by addition.

  Attributes:
    loss: sum of the examples' losses, float32.
    correct: sum of the correct share of each example (see ``objectives.py``), float32; 0 for
      objectives that define none.
    examples: number of examples, int32.
  """

  loss: Array
  correct: Array
  examples: Array

  @classmethod
  def zeros(cls) -> "Metrics":
    """Returns the metrics of no examples."""
    return cls(jnp.float32(0), jnp.float32(0), jnp.int32(0))


def measure(objective: str | Objective, outputs: Array, batch: Batch) -> Metrics:
  """Sums the losses and the correct shares of a batch's real (unpadded) examples.

  Args:
    objective: a name in ``objectives.OBJECTIVES``, or a user-defined objective.
    outputs: outputs of the model, any float dtype.
    batch: the batch, with the objective's targets as its ``labels``.
  """
  chosen, outputs = find(objective), outputs.astype(jnp.float32)
  real = batch.mask > 0

  def total(values: Array) -> Array:
    return jnp.where(real, values, 0).sum(dtype=jnp.float32)

  correct = total(chosen.correct(outputs, batch.labels)) if chosen.correct else jnp.float32(0)
  return Metrics(total(chosen.loss(outputs, batch.labels)), correct, real.sum(dtype=jnp.int32))
