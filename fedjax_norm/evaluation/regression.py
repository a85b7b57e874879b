"""Tests of regression models in the targets' original units; they train on standardized targets."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_norm.errors import UserError
from fedjax_norm.objectives import Objective, find
from fedjax_norm.typing import Array, Batch


class TargetScale(NamedTuple):
  """The mean and the spread of each of the D target numbers of a task.

  Attributes:
    mean: [D] float64, mean over the training examples of all clients.
    std: [D] float64, standard deviation over the training examples of all clients.
    spread: [D] float64, sum of squared deviations of the tested targets from their mean.
  """

  mean: np.ndarray
  std: np.ndarray
  spread: np.ndarray

  def standard(self, targets: np.ndarray) -> np.ndarray:
    """Returns the standardized targets (targets - mean) / std, [N, D] float32."""
    return ((targets - self.mean) / self.std).astype(np.float32)

  def of(self, tested: np.ndarray) -> "TargetScale":
    """Returns the scale for validation or test targets [M, D].

    Raises:
      UserError: one of the D numbers is the same in all of these examples.
    """
    spread = _spread(tested.astype(np.float64))
    _check_varies(spread, "validation", "raise --validation_share")
    return self._replace(spread=spread)


def target_scale(train: np.ndarray, test: np.ndarray) -> TargetScale:
  """Returns the scale of training targets [N, D] and test targets [M, D].

  Raises:
    UserError: one of the D numbers is the same in all training or in all test examples.
  """
  train, test = train.astype(np.float64), test.astype(np.float64)
  scale = TargetScale(train.mean(0), train.std(0), _spread(test))
  for values, name in ((scale.std, "training"), (scale.spread, "test")):
    _check_varies(values, name, "choose other examples")
  return scale


def _check_varies(spread: np.ndarray, name: str, advice: str) -> None:
  """Raises a UserError if one of the D numbers has no spread in the examples called ``name``."""
  if not spread.all():
    raise UserError(
      f"number {int(np.flatnonzero(spread == 0)[0])} of the targets is the same in all {name} "
      f"examples, so a model cannot predict it; remove this number or {advice}."
    )


def _spread(targets: np.ndarray) -> np.ndarray:
  return np.square(targets - targets.mean(0)).sum(0)


class Errors(NamedTuple):
  """Sums over test examples, for standardized targets; ``Errors`` of several batches can be added.

  Attributes:
    loss: [] sum of half the squared distances, or of a user-defined loss.
    squared: [D] sum of squared errors.
    absolute: [D] sum of absolute errors.
    examples: [] number of examples.
  """

  loss: Array
  squared: Array
  absolute: Array
  examples: Array


def errors_of(outputs: Array, batch: Batch, objective: str | Objective = "regression") -> Errors:
  """Returns the errors of outputs [B, D]; padded examples count 0."""
  real = batch.mask > 0
  error = jnp.where(real[:, None], outputs - batch.labels, 0)
  losses = jnp.where(real, find(objective).loss(outputs, batch.labels), 0)
  examples = real.sum(dtype=jnp.float32)
  return Errors(losses.sum(), jnp.square(error).sum(0), abs(error).sum(0), examples)


def summarize(errors: Errors, scale: TargetScale) -> dict[str, float]:
  """Returns the test columns, as means over k models for errors [k, ...].

  ``loss`` is that of standardized targets, like ``train_loss``. The other columns are in the
  targets' original units, over the test examples and as means over the D numbers: ``mse`` = mean
  (y - t)^2, ``rmse`` = sqrt(mse), ``mae`` = mean |y - t|, and ``r2`` = 1 - sum (y - t)^2 /
  sum (t - mean t)^2.
  """
  loss, squared, absolute, examples = (np.asarray(leaf, np.float64) for leaf in errors)
  total, models = examples.sum(), examples.size
  squared, absolute = (leaf.reshape(models, -1).sum(0) for leaf in (squared, absolute))
  squared, absolute = squared * scale.std**2, absolute * scale.std
  mse = float((squared / total).mean())
  return {
    "loss": float(loss.sum() / total),
    "r2": float((1 - squared / (models * scale.spread)).mean()),
    "rmse": mse**0.5,
    "mae": float((absolute / total).mean()),
    "mse": mse,
  }
