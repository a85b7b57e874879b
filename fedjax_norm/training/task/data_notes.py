"""Notes on the data of a task, printed before training."""

import numpy as np

from fedjax_norm.data.examples import MAX_SAMPLED
from fedjax_norm.data.names import join_first
from fedjax_norm.training.task.task import Task, far_outside

_SMALL_TEST_SET = 100  # with fewer test images, a note says how much one image changes the accuracy


def collect_notes(task: Task) -> list[str]:
  """Returns the notes of the data source, and notes on unusual images, classes and test sets."""
  source, (low, high) = task.source, task.value_range
  notes = [*source.notes]
  if far_outside(source.train.images.dtype, task.value_range):
    notes.append(
      f"image values range from {low:g} to {high:g}; --nostandardise, --subtract and the leakage"
      " measures assume 0 to 1"
    )
  height, width, channels = task.image_shape
  if channels > 4:
    notes.append(f"arrays are read as height x width x channels: {height}x{width}x{channels}")
  if task.kind != "classification":
    return notes
  trained, tested = (
    np.bincount(labels, minlength=task.num_classes)
    for labels in (source.train.labels, source.test.labels)
  )
  if empty := np.flatnonzero(trained == 0).tolist():
    names = join_first([source.class_names[c] for c in empty])
    count = tested[empty].sum()
    also = f"; {count:,} test images do" if count else ""
    notes.append(f"no training image has one of the classes {names}{also}")
  if (count := len(source.test.labels)) < _SMALL_TEST_SET:
    notes.append(f"one of the {count} test images is worth {100 / count:.1f} points of accuracy")
  return notes


def describe_images(task: Task) -> str:
  """Returns a text with the size, channels, dtype and value range of the training images."""
  height, width, channels = task.image_shape
  images, (low, high) = task.source.train.images, task.value_range
  sampled = f" in a sample of {MAX_SAMPLED:,}" if len(images) > MAX_SAMPLED else ""
  return (
    f"{height}x{width}, {channels} channel{'s' if channels > 1 else ''},"
    f" {images.dtype} from {low:g} to {high:g}{sampled}"
  )
