"""Tests of segmentation models, which predict the class of every pixel."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_norm.evaluation.undefined import defined_mean, ratio
from fedjax_norm.objectives import IGNORED, Objective, find
from fedjax_norm.typing import Array, Batch


class Confusion(NamedTuple):
  """Sums over test images; the ``Confusion`` of several batches can be added.

  Attributes:
    loss: [] sum of the images' mean cross-entropies, or of a user-defined loss.
    pixels: [C, C] float32, number of pixels by true class (rows) and predicted class (columns).
    examples: [] number of images.
  """

  loss: Array
  pixels: Array
  examples: Array


def confusion_of(
  logits: Array, batch: Batch, num_classes: int, objective: str | Objective = "segmentation"
) -> Confusion:
  """Returns the sums for logits [B, H, W, C]; ignored pixels and padded images count 0."""
  real = batch.mask > 0
  losses = jnp.where(real, find(objective).loss(logits, batch.labels), 0)
  counted = real[:, None, None] & (batch.labels != IGNORED)
  cell = batch.labels.astype(jnp.int32) * num_classes + logits.argmax(-1)
  cell = jnp.where(counted, cell, num_classes**2)  # an index past the end is dropped
  pixels = jnp.zeros(num_classes**2, jnp.int32).at[cell].add(1, mode="drop")
  pixels = pixels.reshape(num_classes, num_classes).astype(jnp.float32)
  return Confusion(losses.sum(), pixels, real.sum(dtype=jnp.float32))


def iou(pixels: np.ndarray) -> np.ndarray:
  """Returns each class's IoU, TP / (TP + FP + FN), [..., C, C] -> [..., C]; nan without pixels."""
  hit = np.diagonal(pixels, axis1=-2, axis2=-1)
  union = pixels.sum(-1) + pixels.sum(-2) - hit
  return ratio(hit, union)


def summarize(confusion: Confusion, names: Sequence[str]) -> dict[str, float]:
  """Returns the test columns, as means over k models for a confusion [k, ...].

  ``loss`` is the training objective's loss, ``mean_iou`` the mean IoU of the classes that occur,
  ``pixel_accuracy`` the share of correct pixels, and ``iou_NAME`` the IoU of the class NAME.
  """
  loss, pixels, examples = (np.asarray(leaf, np.float64) for leaf in confusion)
  pixels = pixels.reshape(-1, len(names), len(names))
  by_class = iou(pixels)
  correct = np.diagonal(pixels, axis1=-2, axis2=-1).sum()
  return {
    "loss": float(loss.sum() / examples.sum()),
    "mean_iou": float(np.mean([defined_mean(one) for one in by_class])),
    "pixel_accuracy": float(correct / pixels.sum()),
    **{f"iou_{name}": defined_mean(column) for name, column in zip(names, by_class.T, strict=True)},
  }
