"""Images with masks in folders: both layouts, ids, sizes, clients, errors, and a run by cities."""

import struct
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.small_data import check, flat, put_cityscapes, write
from PIL import Image

from fedjax_norm.cli import conversion_record
from fedjax_norm.data.image_decoding import decode_ids
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.data.sources.cityscapes import CLASSES
from fedjax_norm.data.sources.config import DataConfig
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import IGNORED, OBJECTIVES

RNG = np.random.default_rng(0)


def load(root, **options):
  return sources.load(f"masks:{root}", objective="segmentation", **options)


def put(root, place, ids, value=9, suffix="png"):
  """Writes an image of one colour and its mask."""
  write(root / "images" / f"{place}.{suffix}", np.full((*np.shape(ids), 3), value))
  write(root / "masks" / f"{place}.png", ids)


def test_masks_are_at_the_places_of_their_images(tmp_path):
  ids = {}
  for i, place in enumerate(
    ["Train/ann/a", "Train/ann/b", "Train/bob/a", "Val/bob/c", "Val/eve/a"]
  ):
    ids[place] = RNG.integers(0, 3, (8, 4)).astype(np.uint8)
    ids[place][0] = IGNORED
    put(tmp_path, place, ids[place], i, "bmp" if i % 2 else "png")
  source = load(tmp_path)
  check(source)
  train, test = list(ids.values())[:3], list(ids.values())[3:]
  np.testing.assert_array_equal(source.train.targets, train)
  np.testing.assert_array_equal(source.test.targets, test)
  assert source.train.targets.dtype == np.uint8
  np.testing.assert_array_equal(source.train.images[:, 5, 2, 1], [0, 1, 2])
  np.testing.assert_array_equal(source.test.images[:, 5, 2, 1], [3, 4])
  assert source.client_names == ("ann", "bob")
  np.testing.assert_array_equal(source.train.clients, [0, 0, 1])
  np.testing.assert_array_equal(source.test.clients, [1, -1])  # eve has no training image
  assert source.class_names == source.target_names == ("0", "1", "2")
  # The label of an image is its most frequent class, which does not depend on the size.
  labels = [np.bincount(one[one != IGNORED]).argmax() for one in train]
  np.testing.assert_array_equal(source.train.labels, labels)
  small = load(tmp_path, image_size=2)
  np.testing.assert_array_equal(small.train.labels, labels)
  np.testing.assert_array_equal(small.train.targets, np.asarray(train)[:, 2::4, 1::2])
  known = sources.load_labels(f"masks:{tmp_path}")
  np.testing.assert_array_equal(known.labels, labels)
  assert known.client_names == ("ann", "bob")
  # Other processes' images are not read, but their targets are complete.
  part = load(tmp_path, select_local=lambda labels, clients: clients == 1)
  assert not part.train.images[:2].any()
  assert part.train.images[2].any()
  np.testing.assert_array_equal(part.train.targets, train)


def test_a_conversion_knows_the_masks(tmp_path):
  put(tmp_path, "train/a", [[0, 1]])
  put(tmp_path, "test/b", [[0, 1]])
  config = DataConfig(data=f"masks:{tmp_path}")
  before = conversion_record.of(config, "segmentation")
  write(tmp_path / "masks" / "train" / "a.png", [[1, 0], [1, 1]])
  after = conversion_record.of(config, "segmentation")
  assert [np.array_equal(before[name], after[name]) for name in conversion_record.FILES] == [
    *(False, True, True)
  ]


def test_masks_may_have_a_palette_or_16_bits_or_one(tmp_path):
  ids = np.array([[0, 1], [2, IGNORED]], np.uint8)
  for i in range(4):
    put(tmp_path, f"train/{i}", ids)
  put(tmp_path, "test/0", [[0, 3], [0, 0]])
  masks = tmp_path / "masks" / "train"
  palette = Image.fromarray(ids)
  palette.putpalette(list(range(256))[::-1] * 3)
  palette.save(masks / "1.png")
  Image.fromarray(ids.astype(np.uint16)).save(masks / "2.png")
  Image.fromarray(ids > 0).save(masks / "3.png")
  source = load(tmp_path)
  np.testing.assert_array_equal(source.train.targets, [ids, ids, ids, ids > 0])
  assert source.target_names == ("0", "1", "2", "3")
  assert source.notes == ("no training pixel has one of the classes 3",)
  assert source.client_names is None
  put(tmp_path, "train/4", [[0, 9], [0, 0]])
  assert load(tmp_path).notes[1] == f"there are 10 classes because {masks / '4.png'} has the id 9"


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_masks_of_few_bits_keep_their_ids(tmp_path, bits):
  """Pillow writes no such files, so this one is put together by hand."""
  ids = [[0, 1, 2, 3]]

  def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

  packed = int("".join(f"{i:0{bits}b}" for i in ids[0]), 2).to_bytes(bits // 2, "big")
  header = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
  png = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + packed)) + chunk(b"IEND", b"")
  path = tmp_path / "mask.png"
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + png)
  np.testing.assert_array_equal(decode_ids(str(path), "mask"), ids)


def test_a_fifth_of_each_client_is_held_out_without_a_test_set(tmp_path):
  for client in ("ann", "bob"):
    for i in range(5):
      put(tmp_path, f"{client}/{i}", [[0, 1]])
  source = load(tmp_path)
  np.testing.assert_array_equal(source.test.clients, [0, 1])
  assert source.notes == ("held out 2 of 10 images (20%) at random for the test",)


def test_the_ids_of_cityscapes_become_its_classes(tmp_path):
  ids = np.resize(np.append(np.arange(34, dtype=np.uint8), 255), (16, 16))  # all that there are
  train_ids = np.full(256, IGNORED)
  train_ids[list(CLASSES)] = np.arange(19)
  # From the official table: id, train id.
  official = [(7, 0), (8, 1), (11, 2), (17, 5), (19, 6), (23, 10), (26, 13), (31, 16), (33, 18)]
  assert all(train_ids[a] == b for a, b in official)
  assert (train_ids != IGNORED).sum() == len(CLASSES) == 19
  put_cityscapes(tmp_path, "train/ulm/ulm_0", ids)
  put_cityscapes(tmp_path, "train/aachen/aachen_0", np.full_like(ids, 11))
  put_cityscapes(tmp_path, "val/lindau/lindau_0", np.full_like(ids, 26))
  for unused in ("test/bonn/b", "train_extra/bamberg/b"):
    write(tmp_path / "leftImg8bit" / f"{unused}_leftImg8bit.png", flat(0))
  write(tmp_path / "gtFine" / "train" / "ulm" / "ulm_0_gtFine_color.png", flat(0))
  source = load(tmp_path)
  assert source.client_names == ("aachen", "ulm")
  np.testing.assert_array_equal(source.train.targets[1], train_ids[ids])
  np.testing.assert_array_equal(source.test.targets, np.full((1, 16, 16), 13))
  np.testing.assert_array_equal(source.train.labels, [2, 0])
  assert source.target_names == tuple(CLASSES.values())
  assert source.target_names[13] == "car"
  assert source.test.clients is not None
  assert source.notes == ("the test set is val; not used: test, train_extra",)


def test_ids_that_cityscapes_does_not_have_are_refused(tmp_path):
  put_cityscapes(tmp_path, "train/ulm/a", [[0, 7], [33, IGNORED]])
  put_cityscapes(tmp_path, "val/lindau/b", [[7, 34], [7, 7]])
  with pytest.raises(UserError, match=r"b_gtFine_labelIds.png has the id 34, which is no label"):
    load(tmp_path)


def test_cityscapes_may_have_train_ids_instead(tmp_path):
  put_cityscapes(tmp_path, "train/ulm/a", [[0, 18], [IGNORED, 3]], "labelTrainIds")
  put_cityscapes(tmp_path, "val/lindau/b", [[0, 1], [2, 3]], "labelTrainIds")
  source = load(tmp_path)
  np.testing.assert_array_equal(source.train.targets, [[[0, 18], [IGNORED, 3]]])
  assert source.notes[0].startswith("no training pixel has one of the classes sidewalk, building,")
  write(tmp_path / "gtFine/val/lindau/b_gtFine_labelTrainIds.png", [[0, 19], [2, 3]])
  with pytest.raises(UserError, match=r"b_gtFine_labelTrainIds.png has the id 19.*has 19 classes"):
    load(tmp_path)


def test_ignored_pixels_change_neither_loss_nor_accuracy(tmp_path):
  """The loss of a mask from a file, against PyTorch."""
  put_cityscapes(tmp_path, "train/ulm/a", RNG.integers(0, 34, (8, 8)))
  put_cityscapes(tmp_path, "val/lindau/b", RNG.integers(0, 34, (8, 8)))
  targets = load(tmp_path).train.targets
  logits = RNG.standard_normal((1, 8, 8, 19)).astype(np.float32)
  objective = OBJECTIVES["segmentation"]
  theirs = F.cross_entropy(
    torch.tensor(logits).permute(0, 3, 1, 2), torch.tensor(targets).long(), ignore_index=IGNORED
  )
  np.testing.assert_allclose(objective.loss(logits, targets), [theirs.item()], rtol=1e-6)
  counted = targets != IGNORED
  assert 0 < counted.sum() < counted.size
  share = (logits.argmax(-1) == targets)[counted].mean()
  np.testing.assert_allclose(objective.correct(logits, targets), [share], rtol=1e-6)


def broken(root, kind):
  put(root, "train/a", [[0, 1]])
  put(root, "train/b", [[0, 1]])
  put(root, "test/a", [[0, 1]])
  mask = root / "masks" / "train" / "a.png"
  if kind == "lone image":
    mask.unlink()
  elif kind == "lone mask":
    (root / "images" / "train" / "a.png").unlink()
  elif kind == "twins":
    write(root / "images" / "train" / "a.bmp", flat(0))
  elif kind == "size":
    write(mask, [[0, 1], [0, 1]])
  elif kind == "colours":
    write(mask, flat(1))
  elif kind == "deep":
    Image.fromarray(np.full((1, 2), 300, np.uint16)).save(mask)
  elif kind == "damaged":
    write(mask, RNG.integers(0, 256, (8, 8)))
    mask.write_bytes(mask.read_bytes()[:80])
  elif kind == "ignored":
    write(root / "masks" / "test" / "a.png", [[IGNORED, IGNORED]])
  elif kind == "binary":
    for place in ("train/a", "train/b", "test/a"):
      put(root, place, [[0, 255]])
  elif kind == "sizes":
    put(root, "train/b", [[0, 1, 2]])
  elif kind == "classes":
    put(root, "train/ann/x/c", [[0, 1]])
  elif kind == "mixed":
    put(root, "train/ann/c", [[0, 1]])
  elif kind == "no masks":
    (root / "masks").rename(root / "labels")
  elif kind == "cityscapes":
    put_cityscapes(root, "train/ulm/a", [[7, 8]])
  elif kind == "lone city":
    put_cityscapes(root, "train/ulm/a", [[7, 8]])
    put_cityscapes(root, "val/lindau/b", [[7, 8]])
    (root / "gtFine/train/ulm/a_gtFine_labelIds.png").unlink()


@pytest.mark.parametrize(
  ("kind", "words"),
  [
    ("lone image", "a.png has no mask .*masks/train/a.png; add the mask or remove the image"),
    ("lone mask", "masks/train/a.png is the mask of no image"),
    ("twins", "a.bmp differs from that of another image only in its suffix"),
    ("size", "masks/train/a.png has 2x2 pixels, but its image .* has 1x2"),
    ("colours", r"a.png has colours \(RGB\); a mask has one integer for each pixel"),
    ("deep", "a.png has the id 300; number the classes from 0 to 254"),
    ("damaged", "a.png is a damaged image"),
    ("ignored", "no pixel of the test masks of .* has a class"),
    ("binary", "have only the ids 0 and 255, and 255 does not count"),
    ("sizes", "give an image size"),
    ("classes", "nested too deeply; use image or CLIENT/image"),
    ("mixed", "mixes image with CLIENT/image"),
    ("no masks", "there is no folder .*masks; .*leftImg8bit and gtFine of Cityscapes"),
    ("cityscapes", r"val holds no images CITY/\*_leftImg8bit.png; unpack leftImg8bit_trainval"),
    ("lone city", "a_leftImg8bit.png has no mask .*train/ulm/a_gtFine_labelIds.png"),
  ],
)
def test_bad_masks_are_one_sentence(tmp_path, kind, words):
  broken(tmp_path, kind)
  with pytest.raises(UserError, match=words):
    load(tmp_path)


def test_masks_are_only_for_segmentation(tmp_path):
  with pytest.raises(UserError, match="are for segmentation; set --task=segmentation"):
    sources.load(f"masks:{tmp_path}")
