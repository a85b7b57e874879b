"""Regression: numbers are trained on in standard units and tested in their own."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_norm.errors import UserError
from fedjax_norm.objectives import Objective, find
from fedjax_norm.typing import Array, Batch


class Units(NamedTuple):
  """What the targets of a task are in.

  Attributes:
    mean: [D] float64, over the training examples of all clients.
    std: [D] float64, over the same.
    spread: [D] float64, the test targets' sum of squares about their mean, in their own units.
  """

  mean: np.ndarray
  std: np.ndarray
  spread: np.ndarray

  def standard(self, targets: np.ndarray) -> np.ndarray:
    """(targets - mean) / std, [N, D] float32."""
    return ((targets - self.mean) / self.std).astype(np.float32)


def units(train: np.ndarray, test: np.ndarray) -> Units:
  """The units of some targets.

  Args:
    train: [N, D].
    test: [M, D].

  Raises:
    UserError: a number that is the same in all examples of either.
  """
  train, test = train.astype(np.float64), test.astype(np.float64)
  found = Units(train.mean(0), train.std(0), np.square(test - test.mean(0)).sum(0))
  for values, name in ((found.std, "training"), (found.spread, "test")):
    if not values.all():
      raise UserError(
        f"number {int(np.flatnonzero(values == 0)[0])} of the targets is the same in all {name} "
        "examples, so nothing can be told of it; leave it out or take other examples."
      )
  return found


class Errors(NamedTuple):
  """Sums over the test set in standard units, so that adding merges them.

  Attributes:
    loss: [] of the half squared distances, or of the user's own loss.
    squared: [D] of the squared errors.
    absolute: [D] of the absolute errors.
    examples: [] how many.
  """

  loss: Array
  squared: Array
  absolute: Array
  examples: Array


def errors_of(outputs: Array, batch: Batch, objective: str | Objective = "regression") -> Errors:
  """The errors of a batch's outputs [B, D]; a padded example counts nothing."""
  real = batch.mask > 0
  off = jnp.where(real[:, None], outputs - batch.labels, 0)
  losses = jnp.where(real, find(objective).loss(outputs, batch.labels), 0)
  return Errors(losses.sum(), jnp.square(off).sum(0), abs(off).sum(0), real.sum(dtype=jnp.float32))


def summarize(errors: Errors, units: Units) -> dict[str, float]:
  """A row's test columns, as means over models for errors [k, ...].

  ``loss`` is in standard units, as ``train_loss`` is; the others are in the targets' own and are
  means over the D numbers: ``mse`` = mean (y - t)^2, ``rmse`` its root, ``mae`` = mean |y - t| and
  ``r2`` = 1 - sum (y - t)^2 / sum (t - mean t)^2, over the test examples.
  """
  loss, squared, absolute, examples = (np.asarray(leaf, np.float64) for leaf in errors)
  total, models = examples.sum(), examples.size
  squared, absolute = (leaf.reshape(models, -1).sum(0) for leaf in (squared, absolute))
  squared, absolute = squared * units.std**2, absolute * units.std
  mse = float((squared / total).mean())
  return {
    "loss": float(loss.sum() / total),
    "r2": float((1 - squared / (models * units.spread)).mean()),
    "rmse": mse**0.5,
    "mae": float((absolute / total).mean()),
    "mse": mse,
  }
