"""Segmentation: a test of the class of every pixel."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_norm.objectives import IGNORED, Objective, find
from fedjax_norm.typing import Array, Batch


class Confusion(NamedTuple):
  """Sums over the test set, so that adding merges them.

  Attributes:
    loss: [] of the images' mean cross-entropies, or of the user's own loss.
    pixels: [C, C] float32, how many of each class (rows) were taken for each (columns).
    examples: [] how many images.
  """

  loss: Array
  pixels: Array
  examples: Array


def confusion_of(
  logits: Array, batch: Batch, num_classes: int, objective: str | Objective = "segmentation"
) -> Confusion:
  """The confusion of a batch's logits [B, H, W, C].

  Pixels that are ignored, and those of padded images, count nothing.
  """
  real = batch.mask > 0
  losses = jnp.where(real, find(objective).loss(logits, batch.labels), 0)
  kept = real[:, None, None] & (batch.labels != IGNORED)
  # A place past the end is dropped.
  cell = batch.labels.astype(jnp.int32) * num_classes + logits.argmax(-1)
  cell = jnp.where(kept, cell, num_classes**2)
  pixels = jnp.zeros(num_classes**2, jnp.int32).at[cell].add(1, mode="drop")
  pixels = pixels.reshape(num_classes, num_classes).astype(jnp.float32)
  return Confusion(losses.sum(), pixels, real.sum(dtype=jnp.float32))


def iou(pixels: np.ndarray) -> np.ndarray:
  """Intersection over union by class, TP / (TP + FP + FN); [..., C, C] -> [..., C].

  Not a number for a class that no pixel has and none was taken for.
  """
  hit = np.diagonal(pixels, axis1=-2, axis2=-1)
  union = pixels.sum(-1) + pixels.sum(-2) - hit
  return np.where(union > 0, hit / np.where(union > 0, union, 1), np.nan)


def summarize(confusion: Confusion, names: Sequence[str]) -> dict[str, float]:
  """A row's test columns, as means over models for a confusion [k, ...].

  ``loss``, as it is trained; ``mean_iou``, the mean over the classes that occur;
  ``pixel_accuracy``, the share of pixels told right; and ``iou_NAME`` of each class.
  """
  loss, pixels, examples = (np.asarray(leaf, np.float64) for leaf in confusion)
  pixels = pixels.reshape(-1, len(names), len(names))
  by_class = iou(pixels)
  right = np.diagonal(pixels, axis1=-2, axis2=-1).sum()
  return {
    "loss": float(loss.sum() / examples.sum()),
    "mean_iou": float(np.mean([_mean(one) for one in by_class])),
    "pixel_accuracy": float(right / pixels.sum()),
    **{f"iou_{name}": _mean(column) for name, column in zip(names, by_class.T, strict=True)},
  }


def _mean(values: np.ndarray) -> float:
  """Of those that are numbers; not a number without any."""
  known = values[np.isfinite(values)]
  return float(known.mean()) if len(known) else float("nan")
