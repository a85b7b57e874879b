"""The handwritten digits that scikit-learn ships: a real data set that needs no download."""

import numpy as np

from fedjax_norm.data import images as images_lib
from fedjax_norm.data import own
from fedjax_norm.data.examples import Source
from fedjax_norm.data.splits import stratified_split

_SPLIT_SEED = 0
_NUM_TEST = 360


def load(image_size: int | None = None, mine: own.Mine | None = None) -> Source:
  """Loads digits: 1437 training and 360 test images of 8x8x1, float32 in [0, 1].

  The split is stratified and always the same, so that runs with different seeds are tested on the
  same images.

  Args:
    image_size: the side to resize every image to; None keeps 8.
    mine: which training images are kept; None keeps all.
  """
  from sklearn import datasets  # here, for it takes a second to import

  data = datasets.load_digits()
  images = (data.images / 16.0).astype(np.float32)[..., None]
  labels = data.target.astype(np.int32)
  train, test = stratified_split(labels, _NUM_TEST, _SPLIT_SEED)
  read = images_lib.reader(images[train], image_size)
  read_test = images_lib.reader(images[test], image_size)
  return Source(
    "digits",
    own.examples(labels[train], None, read, mine),
    own.examples(labels[test], None, read_test, None),
    tuple(str(name) for name in data.target_names),
  )
