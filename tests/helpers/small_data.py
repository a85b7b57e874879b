"""Small data sets for the tests of sources and partitions."""

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from fedjax_norm.data.partitions import registry as partitions

BALANCED = np.repeat(np.arange(10), 100)

label_lists = st.lists(st.integers(0, 6), min_size=1, max_size=120).map(np.asarray)


def class_counts(name, labels, num_clients, seed=0, **options):
  """Makes a partition and returns the number of each client's examples of each class, [K, C]."""
  made = partitions.make(name, labels, num_clients, seed, **options)
  return partitions.counts(made, labels, int(labels.max()) + 1)


def write(path, pixels, **options):
  """Saves pixels as an image file and creates its folders."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def flat(value, size=4, channels=3):
  """Returns the pixels of an image of one colour."""
  return np.full((size, size, channels) if channels > 1 else (size, size), value)


def put_cityscapes(root, place, ids, kind="labelIds"):
  """Writes a mask in the layout of Cityscapes, and its image, whose pixels are 7 times the ids."""
  write(root / "leftImg8bit" / f"{place}_leftImg8bit.png", 7 * np.asarray(ids, np.uint8))
  write(root / "gtFine" / f"{place}_gtFine_{kind}.png", ids)


def check(source):
  """Asserts that shapes, dtypes and labels of a source are consistent."""
  for examples in (source.train, source.test):
    assert examples.images.ndim == 4
    assert examples.images.dtype in (np.uint8, np.float32)
    assert examples.labels.shape == examples.images.shape[:1]
    assert examples.labels.dtype == np.int32
    assert 0 <= examples.labels.min() <= examples.labels.max() < len(source.class_names)
  assert source.train.images.shape[1:] == source.test.images.shape[1:]


def same(one, two):
  """Returns whether two sources have equal images and labels."""
  return all(
    np.array_equal(a, b)
    for part in ("train", "test")
    for a, b in zip(getattr(one, part)[:2], getattr(two, part)[:2], strict=True)
  )


def arrays(**changes):
  """Returns the arrays of a small data set, some replaced or, if None, removed."""
  rng = np.random.default_rng(0)
  result = {
    "x_train": rng.integers(0, 256, (6, 4, 4, 3), np.uint8),
    "y_train": np.asarray([0, 1, 2, 0, 1, 2]),
    "x_test": rng.integers(0, 256, (2, 4, 4, 3), np.uint8),
    "y_test": np.asarray([0, 2]),
  }
  result.update(changes)
  return {name: value for name, value in result.items() if value is not None}


def saved(kind, folder, given):
  """Writes arrays as an archive or a folder and returns the name of the source."""
  if kind == "npz":
    np.savez(folder / "data.npz", **given)
    return f"npz:{folder / 'data.npz'}"
  for name, values in given.items():
    np.save(folder / f"{name}.npy", values)
  return f"npy:{folder}"
