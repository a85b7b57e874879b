"""What a model is to say about an image: a class, numbers, or the class of every pixel."""

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
"""The pixel class that segmentation neither trains nor tests."""


class Objective(NamedTuple):
  """How outputs are held against targets, example by example.

  A user may pass an objective of their own wherever a name of ``OBJECTIVES`` is accepted.

  Attributes:
    loss: (outputs, targets) -> [B] float32, what training lowers.
    right: (outputs, targets) -> [B], the share that is right of each; None where nothing is right
      or wrong, as of numbers.
    train_column: what the mean of the latter over training examples is called in ``metrics.csv``;
      None leaves it out.
  """

  loss: Callable[[Array, Array], Array]
  correct: Callable[[Array, Array], Array] | None = None
  train_column: str | None = None


def _cross_entropy(logits: Array, labels: Array) -> Array:
  """-log softmax(logits)[label]; [B, C] and [B] int32 -> [B]."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _guessed(logits: Array, labels: Array) -> Array:
  return logits.argmax(-1) == labels


def _half_squared_distance(outputs: Array, targets: Array) -> Array:
  """|outputs - targets|^2 / 2, Caffe's EuclideanLoss; [B, D] twice -> [B]."""
  return jnp.square(outputs - targets).sum(-1) / 2


def _pixel_mean(values: Array, classes: Array) -> Array:
  """The mean over an image's pixels that are not ignored, 0 without any; [B, H, W] -> [B]."""
  kept = classes != IGNORED
  total = jnp.where(kept, values, 0).sum((1, 2))
  return total / jnp.maximum(kept.sum((1, 2)), 1)


def _pixel_cross_entropy(logits: Array, classes: Array) -> Array:
  """The mean cross-entropy of an image's pixels; [B, H, W, C] and [B, H, W] uint8 -> [B]."""
  known = jnp.where(classes == IGNORED, 0, classes).astype(jnp.int32)
  return _pixel_mean(_cross_entropy(logits, known), classes)


def _pixels_guessed(logits: Array, classes: Array) -> Array:
  return _pixel_mean(_guessed(logits, classes), classes)


def majority(logits: Array) -> Array:
  """The majority vote of an ensemble, ties broken by the mean probability; [B, M, C] -> [B, C].

  With the votes v_c of M members and their mean probability p_c, the outcome is

    log((v_c + p_c) / (M + 1))

  the logarithm of a probability: the mean probability is one further vote, divided among classes.
  """
  members, classes = logits.shape[1:]
  votes = jax.nn.one_hot(logits.argmax(-1), classes).sum(1)
  shared = jax.nn.logsumexp(jax.nn.log_softmax(logits), 1) - jnp.log(members)
  return jnp.logaddexp(jnp.log(votes), shared) - jnp.log(members + 1)


def _all_cross_entropies(logits: Array, labels: Array) -> Array:
  """The sum over members; [B, M, C] and [B] int32 -> [B]."""
  return _cross_entropy(logits, jnp.broadcast_to(labels[:, None], logits.shape[:2])).sum(-1)


def _voted(logits: Array, labels: Array) -> Array:
  return _guessed(majority(logits), labels)


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
  {
    "classification": Objective(_cross_entropy, _guessed, "train_top1"),
    "regression": Objective(_half_squared_distance),
    "segmentation": Objective(_pixel_cross_entropy, _pixels_guessed, "train_pixel_accuracy"),
    "ensemble": Objective(_all_cross_entropies, _voted, "train_top1"),
  }
)
"""By name. The outputs are logits [B, C], numbers [B, D], logits [B, H, W, C], and the logits of M
members [B, M, C]; the targets are [B] int32, [B, D] float32, [B, H, W] uint8 with ``IGNORED`` among
them, and [B] int32."""

TASKS = tuple(name for name in OBJECTIVES if name != "ensemble")
"""What a model of one topology can be trained for."""


def trained_by(task: str) -> str:
  """The objective that a task is trained by; verification learns identities as classes.

  Args:
    task: of ``TASKS``, or ``'verification'``.
  """
  return "classification" if task == "verification" else task


def find(objective: str | Objective) -> Objective:
  """The objective of a name; a user's own objective stays as it is.

  Raises:
    UserError: an unknown name.
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
  """Refuses a user's own objective whose functions do not give a number for each example.

  Args:
    objective: the user's own.
    output_shape: of the model's output for one example.
    targets: [N, ...] that outputs are held against.

  Raises:
    UserError: a function gives another shape than [B], such as the mean of a batch.
  """
  batch = 2
  outputs = jax.ShapeDtypeStruct((batch, *output_shape), jnp.float32)
  known = jax.ShapeDtypeStruct((batch, *targets.shape[1:]), targets.dtype)
  for name, function in (("loss", objective.loss), ("correct", objective.correct)):
    if function is None:
      continue
    shape = getattr(jax.eval_shape(function, outputs, known), "shape", None)
    if shape != (batch,):
      raise UserError(
        f"the {name} of the objective gives the shape {shape} for a batch of {batch} examples; it "
        f"must give one number for each, ({batch},), and no mean."
      )
