"""The handwritten digits that scikit-learn ships: a real data set that needs no download."""

import numpy as np

from fedjax_norm.data import image_decoding, process_local
from fedjax_norm.data.examples import Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.train_test_split import stratified_split

_SPLIT_SEED = 0
_NUM_TEST = 360


def load(
  image_size: int | None = None,
  select_local: SelectLocal | None = None,
  objective: str = "classification",
) -> Source:
  """Loads digits: 1437 training and 360 test images of 8x8x1, float32 in [0, 1].

  The split is stratified and always the same, so that runs with different seeds are tested on the
  same images.

  Regression is of the digit as a number, from 0 to 9. Segmentation puts a pixel that is at least
  half full of ink into the class of its digit, and any other one into the background.

  Args:
    image_size: the side to resize every image to; None keeps 8.
    select_local: which training images are kept; None keeps all.
    objective: of ``objectives.OBJECTIVES``, what the targets are for.
  """
  from sklearn import datasets  # here, for it takes a second to import

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
  return Source(
    "digits",
    process_local.examples(
      labels[train], None, read, select_local, None if targets is None else targets[train]
    ),
    process_local.examples(
      labels[test], None, read_test, None, None if targets is None else targets[test]
    ),
    names,
    target_names=target_names,
  )
