"""The Tiny-ImageNet builder, with an archive that the tests write and the real archive."""

import io
import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedjax_norm.cli.commands import fetch
from fedjax_norm.data.archives import registry as archives
from fedjax_norm.data.archives import tiny_imagenet
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "raw"
ROOT = "tiny-imagenet-200"
ARCHIVE = archives.ARCHIVES["tiny_imagenet"].files[0]
WNIDS = ["n30", "n10", "n20"]


def prepare(archive, data):
  """Prepares Tiny-ImageNet by the command."""
  fetch.run(fetch.FetchFlags("tiny_imagenet", archive, data))


def jpeg(value, mode="RGB", size=64):
  stream = io.BytesIO()
  Image.new(mode, (size, size), value).save(stream, "JPEG", quality=95)
  return stream.getvalue()


def members():
  """Returns a small archive: class i has i + 2 images; red is the class, green the image."""
  result = {f"{ROOT}/wnids.txt": "\n".join(WNIDS) + "\n", f"{ROOT}/words.txt": "n10\ta thing\n"}
  annotations = ""
  for label, wnid in enumerate(WNIDS):
    result[f"{ROOT}/train/{wnid}/{wnid}_boxes.txt"] = "boxes"
    for i in range(label + 2):
      result[f"{ROOT}/train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg((80 * label, 40 * i, 0))
    result[f"{ROOT}/val/images/val_{label}.JPEG"] = jpeg(80 * label, "L")  # grayscale
    annotations += f"val_{label}.JPEG\t{wnid}\t0\t0\t9\t9\n"
  result[f"{ROOT}/val/val_annotations.txt"] = annotations
  result[f"{ROOT}/test/images/test_0.JPEG"] = jpeg((0, 0, 0))
  return result


def write(folder, contents, compression=zipfile.ZIP_STORED):
  folder.mkdir(exist_ok=True)
  with zipfile.ZipFile(folder / ARCHIVE, "w", compression) as archive:
    for name, data in contents.items():
      archive.writestr(name, data)
  return folder


def test_a_written_archive_is_prepared_and_loaded(tmp_path, capsys):
  manual = write(tmp_path / "manual", members())
  data = tmp_path / "data"
  prepare(str(manual), str(data))
  assert "9 train and 3 validation images" in capsys.readouterr().out
  info = json.loads(next(data.glob("*/*/dataset_info.json")).read_text())
  assert info["fileFormat"] == "array_record"
  assert [path.name for path in data.iterdir()] == ["tiny_imagenet"]

  source = sources.load("tiny_imagenet", str(data))
  assert source.class_names == tuple(WNIDS)
  assert source.train.images.shape == (9, 64, 64, 3)
  assert source.train.images.dtype == np.uint8
  np.testing.assert_array_equal(np.bincount(source.train.labels), [2, 3, 4])
  red = source.train.images[:, 32, 32, 0].astype(int)
  assert (np.abs(red - 80 * source.train.labels) <= 4).all()
  assert sorted(source.test.labels) == [0, 1, 2]
  pixels = source.test.images[:, 32, 32].astype(int)
  assert (np.abs(pixels - 80 * source.test.labels[:, None]) <= 4).all()

  # A second run does nothing, even without the archive.
  prepare(str(tmp_path), str(data))
  assert "was there already" in capsys.readouterr().out
  assert sources.load("tiny_imagenet", str(data), image_size=8).test.images.shape == (3, 8, 8, 3)


def test_loading_prints_and_logs_nothing(tmp_path, capfd, caplog):
  manual = write(tmp_path / "manual", members())
  prepare(str(manual), str(tmp_path / "data"))
  capfd.readouterr()
  caplog.clear()
  with caplog.at_level(logging.INFO):
    sources.load("tiny_imagenet", str(tmp_path / "data"))
  assert capfd.readouterr() == ("", "")
  assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_a_prepared_set_that_is_damaged_is_refused(tmp_path):
  contents = members()
  contents[f"{ROOT}/val/images/val_1.JPEG"] = contents[f"{ROOT}/val/images/val_1.JPEG"][:200]
  manual = write(tmp_path / "manual", contents)
  data = str(tmp_path / "data")
  prepare(str(manual), data)
  with pytest.raises(UserError, match=r"Image \d of tiny_imagenet/validation is"):
    sources.load("tiny_imagenet", data)
  (shard,) = (tmp_path / "data").glob("*/*/*train*")
  shard.write_bytes(shard.read_bytes()[:5000])
  with pytest.raises(UserError, match="cannot be read"):
    sources.load("tiny_imagenet", data)
  shard.unlink()
  with pytest.raises(UserError, match="cannot be read"):
    sources.load("tiny_imagenet", data)
  (info,) = (tmp_path / "data").glob("*/*/dataset_info.json")
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match="needs TensorFlow"):
    sources.load("tiny_imagenet", data)
  info.write_text("{")
  with pytest.raises(UserError, match="prepare it again"):
    sources.load("tiny_imagenet", data)


def test_an_image_of_another_size_is_refused_or_resized(tmp_path):
  contents = members()
  contents[f"{ROOT}/val/images/val_1.JPEG"] = jpeg((0, 0, 0), size=32)
  manual = write(tmp_path / "manual", contents)
  data = str(tmp_path / "data")
  prepare(str(manual), data)
  with pytest.raises(UserError, match="give an image size"):
    sources.load("tiny_imagenet", data)
  assert sources.load("tiny_imagenet", data, image_size=16).test.images.shape == (3, 16, 16, 3)


def without(name):
  contents = members()
  del contents[f"{ROOT}/{name}"]
  return contents


def with_annotation(line):
  contents = members()
  contents[f"{ROOT}/val/val_annotations.txt"] += line
  return contents


@pytest.mark.parametrize(
  ("contents", "words"),
  [
    (without("wnids.txt"), "not the official archive"),
    (without("val/val_annotations.txt"), "not the official archive"),
    (without("val/images/val_1.JPEG"), "lacks the validation image"),
    (with_annotation("val_0.JPEG\tn99\n"), "'n99', which wnids.txt does not list"),
    (with_annotation("val_0.JPEG\n"), "does not list"),
    ({**members(), f"{ROOT}/val/val_annotations.txt": ""}, "no validation images"),
    ({**members(), f"{ROOT}/train/n77/images/n77_0.JPEG": b""}, "'n77'"),
  ],
)
def test_archives_of_another_layout_are_refused(tmp_path, contents, words):
  manual = write(tmp_path / "manual", contents)
  with pytest.raises(UserError, match=words):
    prepare(str(manual), str(tmp_path / "data"))


def test_missing_and_damaged_archives_are_refused(tmp_path):
  with pytest.raises(UserError, match="download"):
    prepare(str(tmp_path), str(tmp_path / "data"))
  (tmp_path / ARCHIVE).write_bytes(b"PK no archive")
  with pytest.raises(UserError, match="damaged"):
    prepare(str(tmp_path), str(tmp_path / "data"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_refused_and_leaves_nothing_prepared(tmp_path, compression):
  manual = write(tmp_path / "manual", members(), compression)
  path = manual / ARCHIVE
  with zipfile.ZipFile(path) as archive:
    start = archive.getinfo(f"{ROOT}/train/n20/images/n20_1.JPEG").header_offset
  data = bytearray(path.read_bytes())
  size = int.from_bytes(data[start + 26 : start + 28], "little")  # of the member's name
  data[start + 30 + size] ^= 0xFF  # the first byte, which says how the others are compressed
  path.write_bytes(bytes(data))
  for _ in range(2):
    with pytest.raises(UserError, match="damaged"):
      prepare(str(manual), str(tmp_path / "data"))
    with pytest.raises(UserError, match="no data source"):
      sources.load("tiny_imagenet", str(tmp_path / "data"))


def test_an_impossible_data_folder_is_refused(tmp_path):
  manual = write(tmp_path / "manual", members())
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot be written to"):
    prepare(str(manual), str(tmp_path / "file"))


@pytest.mark.long
def test_the_real_archive_is_prepared_with_the_right_labels(tmp_path):
  if not (SHARED / ARCHIVE).is_file():
    pytest.skip(f"{ARCHIVE} is not in ../shared/raw")
  index = tiny_imagenet.read_index(SHARED / ARCHIVE)
  prepare(str(SHARED), str(tmp_path))
  source = sources.load("tiny_imagenet", str(tmp_path))
  assert source.class_names == tuple(index.wnids)
  assert len(index.wnids) == 200
  for examples, expected in ((source.train, index.train), (source.test, index.validation)):
    assert examples.images.shape == (len(expected), 64, 64, 3)
    assert np.ptp(np.bincount(examples.labels)) == 0
  # The first validation images of the archive, identified by their pixels, have their classes.
  with zipfile.ZipFile(SHARED / ARCHIVE) as archive:
    for member, label in index.validation[:3]:
      pixels = np.asarray(Image.open(io.BytesIO(archive.read(member))).convert("RGB"))
      matches = (source.test.images == pixels).all((1, 2, 3))
      assert label in source.test.labels[matches]
