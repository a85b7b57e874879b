"""Archives and folders of NumPy arrays: loading, and errors."""

import numpy as np
import pytest
from helpers.small_data import arrays, check, saved

from fedjax_norm.data.examples import value_range
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_arrays_are_loaded_as_they_are(tmp_path, kind):
  clients = np.asarray([5, 5, 2, 2, 9, 9])
  names = np.asarray(["a", "b", "c"])
  given = arrays(client_train=clients, client_test=np.asarray([9, 3]), class_names=names)
  source = sources.load(saved(kind, tmp_path, given))
  check(source)
  assert source.name == kind
  np.testing.assert_array_equal(source.train.images, given["x_train"])
  np.testing.assert_array_equal(source.test.labels, given["y_test"])
  assert source.class_names == ("a", "b", "c")
  assert source.client_names == ("2", "5", "9")
  np.testing.assert_array_equal(source.train.clients, [1, 1, 0, 0, 2, 2])
  np.testing.assert_array_equal(source.test.clients, [2, -1])  # client 3 has no training image


def test_an_archive_of_flat_float_images_gets_a_channel(tmp_path):
  path = tmp_path / "data.npz"
  np.savez(path, **arrays(x_train=np.zeros((6, 4, 4)), x_test=np.ones((2, 4, 4))))
  source = sources.load(f"npz:{path}", image_size=2)
  check(source)
  assert source.train.images.shape == (6, 2, 2, 1)
  assert source.train.images.dtype == np.float32
  assert source.class_names == ("0", "1", "2")


def test_the_images_of_a_folder_stay_on_the_disk(tmp_path):
  images = np.random.default_rng(0).random((6, 4, 4), np.float32)
  (tmp_path / "notes.txt").write_text("not an array")
  source = sources.load(saved("npy", tmp_path, arrays(x_train=images, x_test=images[:2])))
  check(source)
  assert source.train.images.shape == (6, 4, 4, 1)
  # The images change with the file, so they are not a copy.
  np.lib.format.open_memmap(tmp_path / "x_train.npy", mode="r+")[3] = 0.5
  assert (source.train.images[3] == 0.5).all()
  with pytest.raises(ValueError, match="read-only"):
    source.train.images[0] = 0
  with pytest.raises(UserError, match="cannot be resized"):
    sources.load(f"npy:{tmp_path}", image_size=2)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"x_train": np.zeros((6, 4, 4, 3))}, "x_train is float64.*float32 or uint8"),
    ({"x_test": np.zeros((2, 4, 4, 3), ">f4")}, "x_test is >f4.*float32 or uint8"),
    ({"x_train": np.asfortranarray(np.zeros((6, 4, 4, 3), np.uint8))}, "ascontiguousarray"),
    ({"y_train": np.asarray([None] * 6)}, r"y_train\.npy is not a plain array"),
  ],
)
def test_arrays_that_cannot_stay_on_the_disk_are_refused(tmp_path, changes, words):
  name = saved("npy", tmp_path, arrays(**changes))
  with pytest.raises(UserError, match=words):
    sources.load(name)


def test_folders_and_files_without_arrays_are_refused(tmp_path):
  with pytest.raises(UserError, match="no folder"):
    sources.load(f"npy:{tmp_path / 'absent'}")
  with pytest.raises(UserError, match="lacks the array x_train"):
    sources.load(f"npy:{tmp_path}")
  name = saved("npy", tmp_path, arrays())
  whole = (tmp_path / "x_train.npy").read_bytes()
  for content in (b"", b"hello", whole[:100], whole[:200]):
    (tmp_path / "x_train.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"x_train\.npy is not a plain array"):
      sources.load(name)


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"y_test": None}, "lacks the array y_test"),
    ({"clients_train": np.zeros(6, int)}, "unknown array 'clients_train'"),
    ({"x_train": np.zeros((6, 4), np.uint8)}, "N, H, W, C"),
    ({"x_test": np.zeros((0, 4, 4, 3), np.uint8), "y_test": np.zeros(0, int)}, "not empty"),
    ({"x_train": np.zeros((6, 4, 4, 3), np.int64)}, "uint8"),
    (
      {
        "x_train": np.full((6, 4, 4, 3), np.nan, np.float32),
        "x_test": np.zeros((2, 4, 4, 3), np.float32),
      },
      "x_train has values that are not finite",
    ),
    (
      {
        "x_train": np.zeros((6, 4, 4, 3), np.float32),
        "x_test": np.full((2, 4, 4, 3), np.inf, np.float32),
      },
      "x_test has values that are not finite",
    ),
    ({"x_train": np.zeros((6, 5, 5, 3), np.uint8)}, "make the shapes the same"),
    ({"x_train": np.zeros((6, 4, 4, 3), np.float32)}, "make the dtypes the same"),
    ({"y_train": np.zeros(5, int)}, r"must be \(6,\)"),
    ({"y_train": np.zeros((6, 1), int)}, r"must be \(6,\)"),
    ({"y_train": np.zeros(6)}, "integers"),
    ({"y_train": np.asarray([0, 1, 2, 0, 1, -1])}, "number from 0"),
    ({"client_train": np.zeros(4, int)}, r"must be \(6,\)"),
    ({"client_train": np.full(6, -1)}, "number from 0"),
    ({"client_train": np.zeros(6, int), "client_test": np.zeros(6, int)}, r"must be \(2,\)"),
    ({"client_test": np.zeros(2, int)}, "add client_train"),
    ({"class_names": np.asarray(["a"])}, "at least 3 strings"),
    ({"class_names": np.arange(3)}, "at least 3 strings"),
    ({"x_train": np.asarray([None] * 6)}, "plain array"),
  ],
)
def test_bad_arrays_are_refused(tmp_path, kind, changes, words):
  name = saved(kind, tmp_path, arrays(**changes))
  with pytest.raises(UserError, match=words):
    sources.load(name)


def test_files_that_are_not_archives_are_refused(tmp_path):
  with pytest.raises(UserError, match="no file"):
    sources.load(f"npz:{tmp_path / 'absent.npz'}")
  text = tmp_path / "text.npz"
  text.write_text("hello")
  array = tmp_path / "array.npy"
  np.save(array, np.zeros(3))
  whole = tmp_path / "whole.npz"
  np.savez(whole, **arrays())
  cut = tmp_path / "cut.npz"
  cut.write_bytes(whole.read_bytes()[:300])
  for path in (text, array, cut):
    with pytest.raises(UserError, match=r"not an \.npz archive"):
      sources.load(f"npz:{path}")


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"y_train": np.asarray([0, 1, 2, 0, 1, 2**31 - 1])}, "only 4 classes occur.*numpy.unique"),
    ({"y_test": np.asarray([0, 10**7])}, "only 4 classes occur.*numpy.unique"),
    ({"y_test": np.asarray([0, 3])}, "class 3 has test images but no training image"),
    (
      {f"x_{split}": np.zeros((n, 3, 8, 8), np.uint8) for split, n in (("train", 6), ("test", 2))},
      r"x_train has shape \(6, 3, 8, 8\).*numpy.moveaxis",
    ),
    (
      {f"x_{split}": np.zeros((n, 1, 5, 5), np.uint8) for split, n in (("train", 6), ("test", 2))},
      "numpy.moveaxis",
    ),
  ],
)
def test_arrays_that_would_be_misread_are_refused(tmp_path, kind, changes, words):
  with pytest.raises(UserError, match=words):
    sources.load(saved(kind, tmp_path, arrays(**changes)))


@pytest.mark.parametrize("shape", [(1, 128, 9), (2, 8, 8), (3, 5, 9), (4, 4, 4), (3, 3, 3)])
def test_images_that_are_not_channels_first_are_read(tmp_path, shape):
  given = arrays(x_train=np.zeros((6, *shape), np.uint8), x_test=np.zeros((2, *shape), np.uint8))
  assert sources.load(saved("npz", tmp_path, given)).train.images.shape[1:] == shape


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize("names", [None, np.asarray(["a", "b", "c", "d", "e", "f", "g"])])
def test_identities_to_verify_are_numbered_separately(tmp_path, kind, names):
  given = arrays(y_test=np.asarray([6, 3]), class_names=names)
  name = saved(kind, tmp_path, given)
  source = sources.load(name, open_set=True)
  assert source.class_names == (("0", "1", "2") if names is None else tuple(names))
  assert source.test_names == (("3", "6") if names is None else ("d", "g"))
  np.testing.assert_array_equal(source.test.labels, [1, 0])
  assert source.test.labels.dtype == np.int32
  np.testing.assert_array_equal(source.train.labels, given["y_train"])
  assert sources.load_labels(name).class_names == source.class_names


def test_numbers_of_identities_to_verify_may_be_sparse(tmp_path):
  name = saved("npz", tmp_path, arrays(y_test=np.asarray([10**9, 0])))
  assert sources.load(name, open_set=True).test_names == ("0", str(10**9))


def test_labels_of_named_classes_may_be_sparse(tmp_path):
  names = np.asarray([f"class{i}" for i in range(2000)])
  given = arrays(y_train=np.asarray([0, 1999, 2, 0, 1, 2]), class_names=names)
  assert len(sources.load(saved("npz", tmp_path, given)).class_names) == 2000


def test_a_file_that_names_its_classes_may_lack_some(tmp_path):
  """Allows the file of one client to have some of the classes; labels do not change."""
  names = np.asarray(["a", "b", "c", "cafe\u0301"])
  given = arrays(y_train=np.asarray([1, 1, 2, 2, 1, 2]), y_test=np.asarray([2, 3]))
  source = sources.load(saved("npz", tmp_path, {**given, "class_names": names}))
  assert source.class_names == ("a", "b", "c", "caf\u00e9")
  np.testing.assert_array_equal(source.train.labels, given["y_train"])


def test_many_labels_are_allowed_if_most_occur(tmp_path):
  labels = np.arange(0, 1203, 2) % 1201  # 601 classes of 1201
  images = np.zeros((len(labels), 1, 1), np.uint8)
  given = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
  assert len(sources.load(saved("npz", tmp_path, given)).class_names) == 1201


def test_the_value_range_is_that_of_a_sample_of_local_images():
  images = np.zeros((5000, 1, 1, 1), np.float32)
  images[::2] = np.nan  # images of another process
  images[1], images[3] = -3, 9
  assert value_range(images, np.asarray([1, 3])) == (-3, 9)
  local = np.arange(1, 5000, 2)
  images[local] = local[:, None, None, None]
  low, high = value_range(images, local)
  assert low == 1
  assert high > 4990
