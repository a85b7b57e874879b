"""Training objectives: how the loss and the accuracy follow from a model's outputs and targets."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm.errors import UserError
from fedjax_norm.typing import Array

IGNORED = 255
"""The label of pixels that segmentation ignores in training and testing."""


class Objective(NamedTuple):
  """Compares a model's outputs with the targets of each example of a batch.

  A user-defined objective can be passed wherever a name in ``OBJECTIVES`` is accepted.

  Attributes:
    loss: (outputs, targets) -> [B] float32, the training loss of each example.
    correct: (outputs, targets) -> [B], the share of each example that is predicted correctly; None
      if outputs are not correct or wrong, as in regression.
    train_column: column of ``metrics.csv`` for the mean of ``correct`` over training examples; None
      omits this column.
  """

  loss: Callable[[Array, Array], Array]
  correct: Callable[[Array, Array], Array] | None = None
  train_column: str | None = None


def _cross_entropy(logits: Array, labels: Array) -> Array:
  """-log softmax(logits)[label]; [B, C] and [B] int32 -> [B]."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _correct_class(logits: Array, labels: Array) -> Array:
  return logits.argmax(-1) == labels


def _half_squared_distance(outputs: Array, targets: Array) -> Array:
  """|outputs - targets|^2 / 2, Caffe's EuclideanLoss; [B, D] twice -> [B]."""
  return jnp.square(outputs - targets).sum(-1) / 2


def _pixel_mean(values: Array, classes: Array) -> Array:
  """The mean over an image's pixels that are not ignored, 0 if all are; [B, H, W] -> [B]."""
  counted = classes != IGNORED
  total = jnp.where(counted, values, 0).sum((1, 2))
  return total / jnp.maximum(counted.sum((1, 2)), 1)


def _pixel_cross_entropy(logits: Array, classes: Array) -> Array:
  """The mean cross-entropy of an image's pixels; [B, H, W, C] and [B, H, W] uint8 -> [B]."""
  known = jnp.where(classes == IGNORED, 0, classes).astype(jnp.int32)
  return _pixel_mean(_cross_entropy(logits, known), classes)


def majority(logits: Array) -> Array:
  """Returns log-probabilities of the majority vote of an ensemble: logits [B, M, C] -> [B, C].

  If v_c of M members vote for class c, and p_c is the mean of the members' probabilities of c, the
  result is log((v_c + p_c) / (M + 1)): the mean probability breaks ties, as one more vote that is
  divided over the classes.
  """
  members, classes = logits.shape[1:]
  votes = jax.nn.one_hot(logits.argmax(-1), classes).sum(1)
  shared = jax.nn.logsumexp(jax.nn.log_softmax(logits), 1) - jnp.log(members)
  return jnp.logaddexp(jnp.log(votes), shared) - jnp.log(members + 1)


def _all_cross_entropies(logits: Array, labels: Array) -> Array:
  """The sum of the members' cross-entropies; [B, M, C] and [B] int32 -> [B]."""
  return _cross_entropy(logits, jnp.broadcast_to(labels[:, None], logits.shape[:2])).sum(-1)


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
  {
    "classification": Objective(_cross_entropy, _correct_class, "train_top1"),
    "regression": Objective(_half_squared_distance),
    "segmentation": Objective(
      _pixel_cross_entropy,
      lambda y, t: _pixel_mean(_correct_class(y, t), t),
      "train_pixel_accuracy",
    ),
    "ensemble": Objective(
      _all_cross_entropies, lambda y, t: _correct_class(majority(y), t), "train_top1"
    ),
  }
)
"""The objectives by name, with these outputs and targets:

- classification: logits [B, C]; classes [B] int32;
- regression: numbers [B, D]; numbers [B, D] float32;
- segmentation: logits of pixels [B, H, W, C]; classes [B, H, W] uint8, possibly ``IGNORED``;
- ensemble: logits of M members [B, M, C]; classes [B] int32.
"""

TASKS = tuple(name for name in OBJECTIVES if name != "ensemble")
"""The names of the objectives of a single model."""


def training_objective(task: str) -> str:
  """Returns the name of a task's objective; verification learns to classify identities."""
  return "classification" if task == "verification" else task


def find(objective: str | Objective) -> Objective:
  """Returns the objective with a name in ``OBJECTIVES``, or a user-defined objective unchanged.

  Raises:
    UserError: the name is unknown.
  """
  if isinstance(objective, Objective):
    return objective
  if objective not in OBJECTIVES:
    names = ", ".join(OBJECTIVES)
    raise UserError(
      f"unknown objective {objective!r}; choose one of {names}, or pass an Objective."
    )
  return OBJECTIVES[objective]


def check_loss(objective: Objective, output_shape: tuple[int, ...], targets: np.ndarray) -> None:
  """Checks that the functions of a user-defined objective return one number per example.

  Args:
    objective: user-defined objective.
    output_shape: shape of the model's output for one example.
    targets: targets of the data set, [N, ...].

  Raises:
    UserError: ``loss`` or ``correct`` returns a shape other than [B], for example the batch's mean.
  """
  batch = 2
  outputs = jax.ShapeDtypeStruct((batch, *output_shape), jnp.float32)
  labels = jax.ShapeDtypeStruct((batch, *targets.shape[1:]), targets.dtype)
  for name, function in (("loss", objective.loss), ("correct", objective.correct)):
    if function is None:
      continue
    shape = getattr(jax.eval_shape(function, outputs, labels), "shape", None)
    if shape != (batch,):
      raise UserError(
        f"the {name} of the objective returns the shape {shape} for a batch of {batch} examples; "
        f"return one number per example, ({batch},), and not the mean over the batch."
      )
