"""The handwritten digits of scikit-learn: a real data set that needs no download."""

import numpy as np

from fedjax_norm.data import image_decoding, process_local
from fedjax_norm.data.examples import Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.train_test_split import held_out_note, stratified_split

_SPLIT_SEED = 0
_NUM_TEST = 360


def load(
  image_size: int | None = None,
  select_local: SelectLocal | None = None,
  objective: str = "classification",
) -> Source:
  """Loads digits: 1437 training and 360 test images of 8x8x1, float32 in [0, 1].

  The stratified split is always the same. The target of regression is the digit, from 0 to 9. For
  segmentation a pixel that is at least half full of ink has the class of its digit, and any other
  pixel is background. The arguments are those of ``registry.load``.
  """
  from sklearn import datasets  # imported here because that takes a second

  data = datasets.load_digits()
  images = (data.images / 16.0).astype(np.float32)[..., None]
  labels = data.target.astype(np.int32)
  train, test = stratified_split(labels, _NUM_TEST, _SPLIT_SEED)
  read = image_decoding.reader(images[train], image_size)
  read_test = image_decoding.reader(images[test], image_size)
  names = tuple(str(name) for name in data.target_names)
  targets: np.ndarray | None = None
  target_names: tuple[str, ...] | None = None
  if objective == "regression":
    targets, target_names = labels[:, None].astype(np.float32), ("digit",)
  elif objective == "segmentation":
    classes = np.where(images[..., 0] >= 0.5, labels[:, None, None] + 1, 0).astype(np.uint8)
    targets = image_decoding.resize_classes(classes, image_size)
    target_names = ("background", *names)
  targets_of = [None if targets is None else targets[ids] for ids in (train, test)]
  return Source(
    "digits",
    process_local.read_examples(labels[train], None, read, select_local, targets_of[0]),
    process_local.read_examples(labels[test], None, read_test, None, targets_of[1]),
    names,
    notes=(held_out_note(len(test), len(labels)),),
    target_names=target_names,
  )
