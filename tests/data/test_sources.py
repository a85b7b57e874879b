"""Sources on small data that the tests write, and the real sets where they are there."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedjax_norm.data import sources
from fedjax_norm.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "tfds"


def write(path, pixels, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def flat(value, size=4, channels=3):
  return np.full((size, size, channels) if channels > 1 else (size, size), value)


def check(source):
  for examples in (source.train, source.test):
    assert examples.images.ndim == 4
    assert examples.images.dtype in (np.uint8, np.float32)
    assert examples.labels.shape == examples.images.shape[:1]
    assert examples.labels.dtype == np.int32
    assert 0 <= examples.labels.min() <= examples.labels.max() < len(source.class_names)
  assert source.train.images.shape[1:] == source.test.images.shape[1:]


def same(one, two):
  return all(
    np.array_equal(a, b)
    for part in ("train", "test")
    for a, b in zip(getattr(one, part)[:2], getattr(two, part)[:2], strict=True)
  )


# Digits and synthetic data.


def test_digits_have_a_fixed_stratified_split():
  source = sources.load("digits")
  check(source)
  assert source.train.images.shape == (1437, 8, 8, 1)
  assert source.test.images.shape == (360, 8, 8, 1)
  assert source.train.images.max() == 1
  assert source.train.images.min() == 0
  assert same(source, sources.load("digits", seed=7))
  per_class = np.bincount(source.test.labels)
  assert per_class.min() >= 34
  assert per_class.max() <= 38
  everything = np.concatenate([source.train.images, source.test.images]).reshape(1797, -1)
  assert len(np.unique(everything, axis=0)) == 1797


def test_any_source_can_be_resized():
  source = sources.load("digits", image_size=12)
  check(source)
  assert source.train.images.shape == (1437, 12, 12, 1)
  small = sources.load("digits")
  np.testing.assert_allclose(
    source.train.images.mean((1, 2, 3)), small.train.images.mean((1, 2, 3)), atol=0.06
  )


def test_synthetic_data_are_seeded_and_learnable():
  source = sources.load("synthetic")
  check(source)
  assert source.train.images.shape == (2000, 8, 8, 1)
  assert same(source, sources.load("synthetic", seed=0))
  assert not same(source, sources.load("synthetic", seed=1))
  assert source.train.clients is None
  images = source.train.images.reshape(2000, -1)
  centres = np.stack([images[source.train.labels == c].mean(0) for c in range(10)])
  distances = ((source.test.images.reshape(500, 1, -1) - centres) ** 2).sum(-1)
  assert (distances.argmin(1) == source.test.labels).mean() > 0.95


def test_synthetic_options_are_obeyed():
  source = sources.load("synthetic:classes=3,train=31,test=7,size=5,channels=2,noise=0,clients=4")
  check(source)
  assert source.train.images.shape == (31, 5, 5, 2)
  assert source.test.images.shape == (7, 5, 5, 2)
  assert len(source.class_names) == 3
  assert sorted(np.bincount(source.train.clients)) == [7, 8, 8, 8]
  assert len(source.client_names) == 4
  assert len(np.unique(source.train.images.reshape(31, -1), axis=0)) == 3


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ("colour=3", "no option 'colour=3'"),
    ("classes", "key=value"),
    ("classes=2,classes=3", "twice"),
    ("classes=two", "whole number"),
    ("classes=1", "at least 2"),
    ("train=5", "at least 10"),
    ("test=0", "at least 1"),
    ("size=0", "at least 1"),
    ("channels=0", "at least 1"),
    ("noise=-1", "noise"),
    ("noise=nan", "noise"),
    ("clients=2001", "clients"),
    ("clients=-1", "clients"),
  ],
)
def test_bad_synthetic_options_are_refused(options, words):
  with pytest.raises(UserError, match=words):
    sources.load(f"synthetic:{options}")


# NumPy archives, and folders of NumPy files.


def arrays(**changes):
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
  """Writes arrays as an archive or a folder, and gives the name of the source."""
  if kind == "npz":
    np.savez(folder / "data.npz", **given)
    return f"npz:{folder / 'data.npz'}"
  for name, values in given.items():
    np.save(folder / f"{name}.npy", values)
  return f"npy:{folder}"


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_arrays_are_loaded_as_they_are(tmp_path, kind):
  clients = np.asarray([5, 5, 2, 2, 9, 9])
  given = arrays(client_train=clients, class_names=np.asarray(["a", "b", "c"]))
  source = sources.load(saved(kind, tmp_path, given))
  check(source)
  assert source.name == kind
  np.testing.assert_array_equal(source.train.images, given["x_train"])
  np.testing.assert_array_equal(source.test.labels, given["y_test"])
  assert source.class_names == ("a", "b", "c")
  assert source.client_names == ("2", "5", "9")
  np.testing.assert_array_equal(source.train.clients, [1, 1, 0, 0, 2, 2])


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
  # A change of the file is seen, so that no copy was made.
  np.lib.format.open_memmap(tmp_path / "x_train.npy", mode="r+")[3] = 0.5
  assert (source.train.images[3] == 0.5).all()
  with pytest.raises(ValueError, match="read-only"):
    source.train.images[0] = 0
  with pytest.raises(UserError, match="not resized"):
    sources.load(f"npy:{tmp_path}", image_size=2)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"x_train": np.zeros((6, 4, 4, 3))}, "x_train is float64.*float32 or uint8"),
    ({"x_test": np.zeros((2, 4, 4, 3), ">f4")}, "x_test is >f4.*float32 or uint8"),
    ({"x_train": np.asfortranarray(np.zeros((6, 4, 4, 3), np.uint8))}, "ascontiguousarray"),
    ({"y_train": np.asarray([None] * 6)}, r"y_train\.npy is no plain array"),
  ],
)
def test_arrays_that_cannot_stay_on_the_disk_are_refused(tmp_path, changes, words):
  for name, values in arrays(**changes).items():
    np.save(tmp_path / f"{name}.npy", values)
  with pytest.raises(UserError, match=words):
    sources.load(f"npy:{tmp_path}")


def test_folders_and_files_that_hold_no_arrays_are_refused(tmp_path):
  with pytest.raises(UserError, match="no folder"):
    sources.load(f"npy:{tmp_path / 'absent'}")
  with pytest.raises(UserError, match="lacks the array x_train"):
    sources.load(f"npy:{tmp_path}")
  name = saved("npy", tmp_path, arrays())
  whole = (tmp_path / "x_train.npy").read_bytes()
  for content in (b"", b"hello", whole[:100], whole[:200]):
    (tmp_path / "x_train.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"x_train\.npy is no plain array"):
      sources.load(name)


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"y_test": None}, "lacks the array y_test"),
    ({"clients_train": np.zeros(6, int)}, "'clients_train' that has no meaning"),
    ({"x_train": np.zeros((6, 4), np.uint8)}, "N, H, W, C"),
    ({"x_test": np.zeros((0, 4, 4, 3), np.uint8), "y_test": np.zeros(0, int)}, "not empty"),
    ({"x_train": np.zeros((6, 4, 4, 3), np.int64)}, "uint8"),
    (
      {
        "x_train": np.full((6, 4, 4, 3), np.nan, np.float32),
        "x_test": np.zeros((2, 4, 4, 3), np.float32),
      },
      "x_train holds values that are not finite",
    ),
    (
      {
        "x_train": np.zeros((6, 4, 4, 3), np.float32),
        "x_test": np.full((2, 4, 4, 3), np.inf, np.float32),
      },
      "x_test holds values that are not finite",
    ),
    ({"x_train": np.zeros((6, 5, 5, 3), np.uint8)}, "make them the same"),
    ({"x_train": np.zeros((6, 4, 4, 3), np.float32)}, "make them the same"),
    ({"y_train": np.zeros(5, int)}, r"must be \(6,\)"),
    ({"y_train": np.zeros((6, 1), int)}, r"must be \(6,\)"),
    ({"y_train": np.zeros(6)}, "integers"),
    ({"y_train": np.asarray([0, 1, 2, 0, 1, -1])}, "number from 0"),
    ({"client_train": np.zeros(4, int)}, r"must be \(6,\)"),
    ({"client_train": np.full(6, -1)}, "number from 0"),
    ({"class_names": np.asarray(["a"])}, "at least 3 strings"),
    ({"class_names": np.arange(3)}, "at least 3 strings"),
    ({"x_train": np.asarray([None] * 6)}, "plain array"),
  ],
)
def test_bad_arrays_are_refused(tmp_path, kind, changes, words):
  name = saved(kind, tmp_path, arrays(**changes))
  with pytest.raises(UserError, match=words):
    sources.load(name)


def test_files_that_are_no_archive_are_refused(tmp_path):
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


# Folders of images.


def test_a_folder_of_classes_is_split_by_seed_and_class(tmp_path):
  for label, name in enumerate(["ant", "bee"]):
    for i in range(10):
      write(tmp_path / name / f"{i}.png", flat(100 * label + i))
  (tmp_path / "bee" / "notes.txt").write_text("not an image")
  (tmp_path / ".hidden").mkdir()
  source = sources.load(f"folder:{tmp_path}")
  check(source)
  assert source.class_names == ("ant", "bee")
  assert source.client_names is None
  np.testing.assert_array_equal(np.bincount(source.test.labels), [2, 2])
  np.testing.assert_array_equal(np.bincount(source.train.labels), [8, 8])
  values = np.concatenate([source.train.images, source.test.images])[:, 0, 0, 0]
  labels = np.concatenate([source.train.labels, source.test.labels])
  np.testing.assert_array_equal(values >= 100, labels == 1)
  assert len(set(values)) == 20
  assert same(source, sources.load(f"folder:{tmp_path}"))
  assert not same(source, sources.load(f"folder:{tmp_path}", seed=1))


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_folder_with_its_own_split_keeps_it(tmp_path, held_out):
  for name, value in (("ant", 1), ("bee", 2)):
    write(tmp_path / "train" / name / "a.bmp", flat(value, channels=1))
    write(tmp_path / "train" / name / "b.PNG", flat(value, channels=1))
  write(tmp_path / held_out / "bee" / "a.png", flat(9, channels=1))
  source = sources.load(f"folder:{tmp_path}")
  check(source)
  np.testing.assert_array_equal(source.train.images[:, 0, 0, 0], [1, 1, 2, 2])
  assert source.train.images.shape == (4, 4, 4, 1)
  np.testing.assert_array_equal(source.test.images, np.full((1, 4, 4, 1), 9))
  np.testing.assert_array_equal(source.test.labels, [1])


def test_a_folder_of_clients_is_a_natural_partition(tmp_path):
  for client in range(3):
    for label in range(2):
      for i in range(5):
        folder = tmp_path / f"c{client}" / f"k{label}"
        write(folder / f"{i}.png", flat(40 * client + 20 * label + i))
  source = sources.load(f"folder:{tmp_path}")
  check(source)
  assert source.client_names == ("c0", "c1", "c2")
  assert source.class_names == ("k0", "k1")
  values = source.train.images[:, 0, 0, 0]
  np.testing.assert_array_equal(source.train.clients, values // 40)
  np.testing.assert_array_equal(source.train.labels, values % 40 // 20)
  np.testing.assert_array_equal(np.bincount(source.train.clients), [8, 8, 8])
  assert source.train.clients.dtype == np.int32
  assert source.test.clients is None


def test_sizes_are_mended_on_request_and_colour_wins_over_gray(tmp_path):
  write(tmp_path / "a" / "1.png", flat(10, 4, 1))
  write(tmp_path / "a" / "2.jpg", flat(20, 6), quality=95)
  write(tmp_path / "b" / "1.png", np.dstack([flat(30, 8), flat(128, 8, 1)]))  # with alpha
  write(tmp_path / "b" / "2.png", flat(40, 8))
  with pytest.raises(UserError, match="give an image size"):
    sources.load(f"folder:{tmp_path}")
  source = sources.load(f"folder:{tmp_path}", image_size=5)
  check(source)
  assert source.train.images.shape == (3, 5, 5, 3)
  values = np.sort(np.concatenate([source.train.images, source.test.images])[:, 2, 2, 1])
  np.testing.assert_allclose(values, [10, 20, 30, 40], atol=2)


def test_palettes_become_rgb_and_transparency_is_dropped(tmp_path):
  for i in range(5):
    image = Image.fromarray(np.asarray(flat(50 * i), np.uint8)).quantize(4)
    (tmp_path / "a").mkdir(exist_ok=True)
    image.save(tmp_path / "a" / f"{i}.png", transparency=bytes([0, 128]))
    image.save(tmp_path / "a" / f"{i}.gif", transparency=0)
  source = sources.load(f"folder:{tmp_path}")
  check(source)
  values = np.concatenate([source.train.images, source.test.images])[:, 1, 1]
  np.testing.assert_array_equal(np.sort(values[:, 0]), np.repeat([0, 50, 100, 150, 200], 2))
  assert (values == values[:, :1]).all()


def broken(tmp_path, kind):
  write(tmp_path / "a" / "1.png", flat(1))
  write(tmp_path / "a" / "2.png", flat(2))
  if kind == "text":
    (tmp_path / "a" / "3.png").write_text("no image")
  elif kind == "cut":
    write(tmp_path / "a" / "3.png", np.random.default_rng(0).integers(0, 256, (4, 4, 3)))
    data = (tmp_path / "a" / "3.png").read_bytes()
    (tmp_path / "a" / "3.png").write_bytes(data[:60])
  elif kind == "deep":
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "a" / "3.png")
  elif kind == "loose":
    write(tmp_path / "3.png", flat(3))
  elif kind == "mixed":
    write(tmp_path / "b" / "c" / "3.png", flat(3))
  elif kind == "nested":
    write(tmp_path / "b" / "c" / "d" / "3.png", flat(3))
  elif kind == "single":
    (tmp_path / "a" / "2.png").unlink()
  elif kind == "unknown":
    write(tmp_path / "train" / "a" / "1.png", flat(1))
    write(tmp_path / "test" / "b" / "1.png", flat(1))


@pytest.mark.parametrize(
  ("kind", "words"),
  [
    ("text", "not an image"),
    ("cut", "damaged"),
    ("deep", "8-bit"),
    ("loose", "outside any class"),
    ("mixed", "mixes"),
    ("nested", "too deep"),
    ("single", "none left to test on"),
    ("unknown", "'b' has test images but no training"),
  ],
)
def test_bad_folders_are_refused(tmp_path, kind, words):
  broken(tmp_path, kind)
  with pytest.raises(UserError, match=words):
    sources.load(f"folder:{tmp_path}")


def test_missing_and_empty_folders_are_refused(tmp_path):
  with pytest.raises(UserError, match="holds no images"):
    sources.load(f"folder:{tmp_path}")
  with pytest.raises(UserError, match="no folder"):
    sources.load(f"folder:{tmp_path / 'absent'}")


# Names.


@pytest.mark.parametrize("name", ["cifra10", "npz", "folder", "npz:", "", "../x"])
def test_an_unknown_name_lists_what_there_is(tmp_path, name):
  for data_dir in (None, str(tmp_path)):
    with pytest.raises(UserError, match=r"digits, synthetic.*npz:PATH, folder:PATH"):
      sources.load(name, data_dir)


def test_bad_settings_are_refused(tmp_path):
  with pytest.raises(UserError, match="no folder"):
    sources.load("mnist", str(tmp_path / "absent"))
  with pytest.raises(UserError, match=r"fedjax_norm\.data\.tiny_imagenet"):
    sources.load("tiny_imagenet", str(tmp_path))
  with pytest.raises(UserError, match="seed"):
    sources.load("digits", seed=-1)
  with pytest.raises(UserError, match="image size"):
    sources.load("digits", image_size=0)


# Real prepared sets.


@pytest.mark.parametrize(
  ("name", "train", "test", "first_class"),
  [
    ("mnist", (60000, 28, 28, 1), (10000, 28, 28, 1), "0"),
    ("cifar10", (50000, 32, 32, 3), (10000, 32, 32, 3), "airplane"),
  ],
)
def test_real_prepared_sets_load_in_seconds(name, train, test, first_class):
  if not (SHARED / name).is_dir():
    pytest.skip(f"{name} is not prepared in ../shared/tfds")
  start = time.perf_counter()
  source = sources.load(name, str(SHARED))
  assert time.perf_counter() - start < 60  # a few seconds on a quiet machine
  check(source)
  assert source.train.images.shape == train
  assert source.test.images.shape == test
  assert source.train.images.dtype == np.uint8
  assert source.class_names[0] == first_class
  counts = np.bincount(source.test.labels)
  assert counts.sum() == 10000
  assert counts.min() > 800
