"""Folders of image files: layouts, splits, clients, and errors."""

import shutil
import unicodedata

import numpy as np
import pytest
from helpers.small_data import check, flat, same, write
from PIL import Image

from fedjax_norm.data.sources import folders
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError


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


@pytest.mark.parametrize(
  ("train", "held_out"),
  [
    ("train", "test"),
    ("train", "val"),
    ("Train", "Test"),
    ("train", "valid"),
    ("training", "validation"),
    ("TRAINING", "Testing"),
    ("train", "dev"),
  ],
)
def test_split_folders_are_the_split(tmp_path, train, held_out):
  (tmp_path / "__MACOSX" / train).mkdir(parents=True)
  for name, value in (("ant", 1), ("bee", 2)):
    write(tmp_path / train / name / "a.bmp", flat(value, channels=1))
    write(tmp_path / train / name / "b.PNG", flat(value, channels=1))
  write(tmp_path / held_out / "bee" / "a.png", flat(9, channels=1))
  source = sources.load(f"folder:{tmp_path}")
  check(source)
  np.testing.assert_array_equal(source.train.images[:, 0, 0, 0], [1, 1, 2, 2])
  assert source.train.images.shape == (4, 4, 4, 1)
  np.testing.assert_array_equal(source.test.images, np.full((1, 4, 4, 1), 9))
  np.testing.assert_array_equal(source.test.labels, [1])
  assert source.train.clients is None
  assert source.notes == ()


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
  np.testing.assert_array_equal(source.test.clients, [0, 0, 1, 1, 2, 2])


def test_images_are_resized_and_are_rgb_if_one_has_colour(tmp_path):
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
    shutil.rmtree(tmp_path / "a")
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
    ("nested", "too deeply"),
    ("single", "none is left to test on"),
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


def touch(root, *paths):
  for path in paths:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).touch()


def test_splits_may_contain_clients_and_validation_images_are_not_trained_on(tmp_path):
  touch(tmp_path, "Train/ann/cat/1.png", "Train/bob/cat/2.png", "Test/ann/cat/3.png")
  touch(tmp_path, "Validation/ann/cat/4.png", "Validation/bob/cat/5.png")
  listing = folders.scan(str(tmp_path), 0)
  assert [(file.client, file.label) for file in listing.train] == [("ann", "cat"), ("bob", "cat")]
  assert [file.path[-5:] for file in listing.test] == ["3.png"]
  assert listing.notes == ("the test set is Test; the 2 images of Validation are not used",)


def test_a_fifth_of_a_training_folder_without_a_test_folder_is_held_out(tmp_path):
  touch(tmp_path, *(f"train/{name}/{i}.png" for name in ("ant", "bee") for i in range(10)))
  listing = folders.scan(str(tmp_path), 0)
  assert {file.client for file in listing.train} == {None}
  assert (len(listing.train), len(listing.test)) == (16, 4)
  assert listing.notes == ("held out 4 of 20 images (20%) at random for the test",)


@pytest.mark.parametrize(
  ("paths", "words"),
  [
    (["train/cat/1.png", "anna/cat/1.png"], "'train', which names a split, next to 'anna'"),
    (["Testing/cat/1.png", "ben/cat/1.png"], "rename 'Testing' if it is a class or a client"),
    (["test/cat/1.png"], "no training set"),
    (["test/cat/1.png", "val/cat/1.png"], "no training set"),
    (
      ["train/cat/1.png", "Training/cat/2.png", "test/cat/3.png"],
      "two folders for one split.*merge",
    ),
    (["train/cat/1.png", "test/cat/notes.txt"], "test holds no images"),
    (["cat/train/1.png", "cat/test/2.png"], "is in '(train|test)', which names a split; put"),
    (["ann/train/cat/1.png", "ann/test/cat/2.png"], "ann.(train|test).cat is in"),
    (["images/Train/cat/1.png", "images/Test/cat/2.png"], "names a split; put split folders at"),
    (["train/1.png", "train/cat/2.png", "test/cat/3.png"], "outside any class"),
    (["cat/train/1.png", "cat/test/2.png", "dog/3.png"], "is in '(train|test)'"),
    (["train/train/cat/1.png", "test/ann/cat/2.png"], "is in 'train', which names a split"),
    (["cat/scan.heic"], r"skipped because.*1 \(1 .heic\); .* holds no images"),
  ],
)
def test_split_folders_that_could_be_misread_are_refused(tmp_path, paths, words):
  touch(tmp_path, *paths)
  with pytest.raises(UserError, match=words):
    folders.scan(str(tmp_path), 0)


@pytest.mark.parametrize(
  ("paths", "clients", "classes"),
  [
    (["train/train/1.png", "train/bus/2.png", "test/train/3.png"], {None}, {"train", "bus"}),
    (
      ["train/ann/train/1.png", "train/ann/bus/2.png", "val/ann/bus/3.png"],
      {"ann"},
      {"train", "bus"},
    ),
    (["train/train/1.png", "test/train/3.png"], {None}, {"train"}),
    (["ann/train/1.png", "ann/bus/2.png", "ann/bus/3.png"], {"ann"}, {"train", "bus"}),
  ],
)
def test_a_class_may_have_the_name_of_a_split(tmp_path, paths, clients, classes):
  touch(tmp_path, *paths, *(path.replace(".png", "b.png") for path in paths))
  listing = folders.scan(str(tmp_path), 0)
  assert {file.client for file in listing.train} == clients
  assert {file.label for file in listing.train} == classes


def test_unused_folders_may_contain_anything(tmp_path):
  touch(tmp_path, "train/ann/cat/1.png", "test/ann/cat/2.png")
  (tmp_path / "val").mkdir()
  (tmp_path / "train" / "ann" / "cat" / "meta" / "v1").mkdir(parents=True)
  listing = folders.scan(str(tmp_path), 0)
  assert [len(part) for part in (listing.train, listing.test)] == [1, 1]
  assert listing.notes == ("folders skipped because no image is in them: train/ann/cat/meta, val",)
  touch(tmp_path, "val/3.png", "val/a/b/c/d/4.png")
  assert folders.scan(str(tmp_path), 0).notes[-1].endswith("the 2 images of val are not used")
  (tmp_path / "train" / "ann" / "loop").symlink_to(tmp_path / "train", target_is_directory=True)
  with pytest.raises(UserError, match="too deeply"):
    folders.scan(str(tmp_path), 0)


def test_images_are_recognized_by_suffix_or_by_content(tmp_path):
  for i, suffix in enumerate(["jpg", "JFIF", "jPeG", "TIFF", "avif", "webp", "jp2", "tga"]):
    write(tmp_path / "cat" / f"{i}.{suffix}", flat(i), format=None)
  write(tmp_path / "dog" / "0", flat(0), format="PNG")
  write(tmp_path / "dog" / "1.jpx", flat(1), format="JPEG")
  for copy in ("0.NEF", "0.png~", "0.png.bak"):
    write(tmp_path / "dog" / copy, flat(0), format="TIFF")
  (tmp_path / "dog" / "Thumbs.db").write_bytes(b"no image")
  (tmp_path / "dog" / "notes").write_text("no image")
  for i in range(2):
    touch(tmp_path, f"emu/{i}.heic", ".git/x/1.png", "__MACOSX/cat/1.png")
  (tmp_path / "fox").mkdir()
  source = sources.load(f"folder:{tmp_path}")
  assert source.class_names == ("cat", "dog")
  assert len(source.train.labels) + len(source.test.labels) == 10
  kinds = "2 .heic, 1 without suffix, 1 .nef, 1 .bak, 1 .png~, 1 .db"
  assert source.notes[0].endswith(f"as images: 7 ({kinds})")
  assert source.notes[1] == "folders skipped because no image is in them: emu, fox"
  write(tmp_path / "loose", flat(1), format="PNG")
  with pytest.raises(UserError, match="outside any class"):
    folders.scan(str(tmp_path), 0)


def test_names_that_look_the_same_are_equal(tmp_path):
  composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
  touch(tmp_path, f"train/{composed}/{composed}/1.png", f"train/{decomposed}/{decomposed}/2.png")
  touch(tmp_path, f"test/{decomposed}/{decomposed}/1.png")
  listing = folders.scan(str(tmp_path), 0)
  files = [*listing.train, *listing.test]
  assert {(file.label, file.client) for file in files} == {(composed, composed)}
