"""Targets other than labels: their values in each source, and in batches."""

import csv

import jax
import numpy as np
import pytest
from helpers.small_data import saved
from PIL import Image
from sklearn import datasets

from fedjax_norm.data import image_decoding
from fedjax_norm.data.examples import Examples
from fedjax_norm.data.federated import draw, federate, gather
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import IGNORED

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["digits", "synthetic:classes=3,train=20,test=9,size=5"])
@pytest.mark.parametrize("objective", ["regression", "segmentation"])
def test_images_and_labels_are_the_same_with_targets(name, objective):
  plain, source = sources.load(name), sources.load(name, objective=objective)
  assert plain.train.targets is plain.target_names is None
  for ours, theirs in ((source.train, plain.train), (source.test, plain.test)):
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    pixels = theirs.images.shape[:3] if objective == "segmentation" else (len(theirs.labels), 1)
    assert ours.targets.shape == pixels
    assert ours.targets.dtype == (np.uint8 if objective == "segmentation" else np.float32)


def test_targets_of_digits_are_numbers_and_inked_pixels():
  numbers = sources.load("digits", objective="regression").test
  np.testing.assert_array_equal(numbers.targets[:, 0], numbers.labels)
  source = sources.load("digits", objective="segmentation")
  assert source.target_names == ("background", *map(str, range(10)))
  test = source.test
  for image, label, classes in zip(test.images, test.labels, test.targets, strict=True):
    np.testing.assert_array_equal(classes, (image[..., 0] >= 0.5) * (label + 1))
  assert datasets.load_digits().images.max() == 16  # full of ink


def test_synthetic_targets_are_of_the_prototypes():
  name = "synthetic:classes=3,train=30,test=6,size=4,noise=0"
  numbers = sources.load(name, objective="regression").train
  np.testing.assert_allclose(numbers.targets[:, 0], numbers.images.mean((1, 2, 3)), rtol=1e-6)
  pixels = sources.load(name, objective="segmentation").train
  np.testing.assert_array_equal(pixels.targets, pixels.images[..., 0] > 0.5)


def test_pixel_classes_are_resized_by_the_nearest_pixel():
  classes = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
  doubled = image_decoding.resize_classes(classes, 8)
  np.testing.assert_array_equal(doubled, classes.repeat(2, 1).repeat(2, 2))
  np.testing.assert_array_equal(image_decoding.resize_classes(doubled, 4), classes)
  assert image_decoding.resize_classes(classes, None) is classes
  source = sources.load("digits", image_size=16, objective="segmentation")
  small = sources.load("digits", objective="segmentation")
  np.testing.assert_array_equal(source.test.targets[:, ::2, ::2], small.test.targets)


def arrays(**others):
  """Returns the arrays of a small source, some replaced."""
  plain = {
    "x_train": RNG.random((6, 4, 4, 1)).astype(np.float32),
    "y_train": np.arange(6) % 2,
    "x_test": RNG.random((3, 4, 4, 1)).astype(np.float32),
    "y_test": np.arange(3) % 2,
    "target_train": RNG.random((6, 2)),
    "target_test": RNG.random((3, 2)),
  }
  return {name: value for name, value in {**plain, **others}.items() if value is not None}


def test_arrays_may_have_targets(tmp_path):
  given = arrays(target_names=np.array(["x", "y"]))
  name = saved("npz", tmp_path, given)
  source = sources.load(name, objective="regression")
  np.testing.assert_array_equal(source.train.targets, given["target_train"].astype(np.float32))
  np.testing.assert_array_equal(source.test.targets, given["target_test"].astype(np.float32))
  assert source.target_names == ("x", "y")
  assert sources.load(name).train.targets is None  # one archive is for several objectives
  # Targets, like labels, are complete in every process.
  some = sources.load(name, objective="regression", select_local=lambda labels, _: labels == 0)
  np.testing.assert_array_equal(some.train.targets, source.train.targets)

  masks = {"target_train": np.full((6, 4, 4), 3), "target_test": np.zeros((3, 4, 4), int)}
  masks["target_train"][0] = IGNORED
  source = sources.load(saved("npy", tmp_path, arrays(**masks)), objective="segmentation")
  np.testing.assert_array_equal(source.train.targets, masks["target_train"])
  assert source.target_names == ("0", "1", "2", "3")
  name = saved("npz", tmp_path, arrays(**masks))
  resized = sources.load(name, image_size=8, objective="segmentation")
  assert resized.train.targets.shape == resized.train.images.shape[:3] == (6, 8, 8)


@pytest.mark.parametrize(
  ("objective", "others", "message"),
  [
    ("regression", {"target_test": None}, "lacks the array target_test, which regression needs"),
    (
      "regression",
      {"target_test": RNG.random((3, 1))},
      "has 2 numbers per image and target_test 1",
    ),
    ("regression", {"target_train": RNG.random((5, 2))}, r"regression needs numbers \[6\]"),
    ("regression", {"target_train": np.full(6, np.nan)}, "not finite"),
    ("regression", {"target_test": np.full((3, 2), -1e39)}, "size 1e.39, which float32 cannot"),
    ("regression", {"target_names": np.array(["x"])}, "at least 2 strings, one for each number"),
    ("segmentation", {}, r"segmentation needs integers \(6, 4, 4\)"),
    ("segmentation", {"target_train": np.full((6, 4, 4), 256)}, "between 0 and 254"),
    (
      "segmentation",
      {"target_train": np.zeros((6, 4, 4), int), "target_test": np.full((3, 4, 4), IGNORED)},
      "all pixels of a target array are 255",
    ),
  ],
)
def test_damaged_targets_are_refused(tmp_path, objective, others, message):
  with pytest.raises(UserError, match=message):
    sources.load(saved("npz", tmp_path, arrays(**others)), objective=objective)


def test_a_csv_index_has_one_value_per_image(tmp_path):
  rows = [("path", "label", "value", "split")]
  for i in range(4):
    Image.fromarray(np.full((4, 4), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    rows.append((f"{i}.png", "ab"[i % 2], i / 2, "test" if i == 3 else "train"))

  def index(rows) -> str:
    with open(tmp_path / "index.csv", "w", newline="") as file:
      csv.writer(file).writerows(rows)
    return f"csv:{tmp_path / 'index.csv'}"

  source = sources.load(index(rows), objective="regression")
  np.testing.assert_array_equal(source.train.targets, [[0], [0.5], [1]])
  np.testing.assert_array_equal(source.test.targets, [[1.5]])
  assert source.target_names == ("value",)
  rows[2] = (*rows[2][:2], "large", "train")
  assert sources.load(index(rows)).train.targets is None  # unused values are not checked
  with pytest.raises(UserError, match=r"the value of .*1\.png is 'large'; give a finite number"):
    sources.load(index(rows), objective="regression")
  rows[2] = (*rows[2][:2], "1e39", "train")
  with pytest.raises(UserError, match=r"is '1e39'; give a finite number up to 3.4e"):
    sources.load(index(rows), objective="regression")
  without = [(path, label, split) for path, label, _, split in rows]
  with pytest.raises(UserError, match="has no column value, which regression needs"):
    sources.load(index(without), objective="regression")


@pytest.mark.parametrize(
  ("name", "objective", "message"),
  [
    (
      "identities",
      "regression",
      "'identities' has no targets for regression; choose one of digits",
    ),
    ("csv:index.csv", "segmentation", "has no targets for segmentation"),
    ("cifar10", "segmentation", "has no targets for segmentation"),
    ("digits", "ranking", "unknown objective 'ranking'"),
  ],
)
def test_data_without_targets_is_refused(name, objective, message):
  with pytest.raises(UserError, match=message):
    sources.load(name, objective=objective)


def test_a_batch_has_the_targets_of_its_images():
  """Checks the whole federation and a part that is copied out of it."""
  values = np.arange(10, dtype=np.float32)
  examples = Examples(values.reshape(10, 1, 1, 1), np.zeros(10, np.int32))
  division = Partition(RNG.permutation(10).astype(np.int32), np.array([0, 3, 10], np.int32))
  data = federate(examples, division, targets=np.stack([values, -values], 1))
  for source, row in ((data, 1), (gather(data, np.array([1]), 8), 0)):
    batch = draw(source, row, 0, 7, lambda images, *_: images, jax.random.key(0))
    shown = np.ravel(batch.images)
    np.testing.assert_array_equal(batch.labels, np.stack([shown, -shown], 1))
    assert set(shown) == set(division.order[3:])
  plain = federate(examples, division)
  assert plain.targets is plain.labels  # no copy
