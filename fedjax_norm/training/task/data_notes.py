"""What a user should know about the data of a task before it trains."""

import numpy as np

from fedjax_norm.data.examples import MAX_SAMPLED
from fedjax_norm.data.names import join_first
from fedjax_norm.training.task.task import Task, far_outside

_FEW = 100  # test images, below which the note says what one of them is worth


def collect_notes(task: Task) -> list[str]:
  """The notes of the data source, and what looks odd about images, classes and test set."""
  source, (low, high) = task.source, task.values
  notes = [*source.notes]
  if far_outside(source.train.images.dtype, task.values):
    notes.append(
      f"images hold values from {low:g} to {high:g}; --nostandardise, --subtract and the leakage"
      " measures assume 0 to 1"
    )
  height, width, channels = task.image_shape
  if channels > 4:
    notes.append(f"arrays are read as height x width x channels: {height}x{width}x{channels}")
  if task.kind != "classification":
    return notes
  held, tested = (
    np.bincount(labels, minlength=task.num_classes)
    for labels in (source.train.labels, source.test.labels)
  )
  if empty := np.flatnonzero(held == 0).tolist():
    names = join_first([source.class_names[c] for c in empty])
    also = f", and {tested[empty].sum():,} test images are" if tested[empty].any() else ""
    notes.append(f"no training image is of the classes {names}{also}")
  if (count := len(source.test.labels)) < _FEW:
    notes.append(f"one of the {count} test images is worth {100 / count:.1f} points of accuracy")
  return notes


def describe_images(task: Task) -> str:
  """Size, channels and values of the training images."""
  height, width, channels = task.image_shape
  images, (low, high) = task.source.train.images, task.values
  sampled = f" in a sample of {MAX_SAMPLED:,}" if len(images) > MAX_SAMPLED else ""
  return (
    f"{height}x{width}, {channels} channel{'s' if channels > 1 else ''},"
    f" {images.dtype} from {low:g} to {high:g}{sampled}"
  )
