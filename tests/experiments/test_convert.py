"""``experiments.convert``: the arrays that it writes, interruptions, and what it refuses."""

import csv
import itertools
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers.conversions import folder, run
from helpers.small_data import arrays, flat, saved, write
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm import options
from fedjax_norm.cli.app import guard
from fedjax_norm.cli.commands import convert
from fedjax_norm.data import encoded_images, image_decoding
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import training_objective


def identities(root):
  for split, names in (("train", "cd"), ("test", "ab")):
    for name in names:
      write(root / split / name / "0.png", flat(ord(name), 5, 1))
  return f"folder:{root}", "verification"


def index(root):
  rows = [("path", "label", "client", "split", "value")]
  for i in range(8):
    write(root / f"{i}.png", flat(20 * i, 4 + i))
    rows.append((f"{i}.png", f"k{i % 2}", f"c{i % 3}", "train" if i < 6 else "test", i / 3))
  with open(root / "own.csv", "w", newline="") as file:
    csv.writer(file).writerows(rows)
  return f"csv:{root / 'own.csv'}", "regression"


def archive(root):
  targets = {f"target_{s}": np.full((n, 4, 4), n) for s, n in (("train", 6), ("test", 2))}
  images = {f"x_{s}": np.full((n, 4, 4), n / 8) for s, n in (("train", 6), ("test", 2))}
  return saved("npz", root, arrays(**targets, **images)), "segmentation"


def load(name, task, image_size=None):
  return sources.load(
    name, image_size=image_size, open_set=task == "verification", objective=training_objective(task)
  )


def assert_same(source, converted):
  for split in ("train", "test"):
    for one, other in zip(getattr(source, split), getattr(converted, split), strict=True):
      np.testing.assert_array_equal(one, other)
      assert one is other is None or one.dtype == other.dtype


@pytest.mark.parametrize("make", [folder, identities, index, archive])
def test_the_data_are_those_of_the_source(make, tmp_path, monkeypatch):
  monkeypatch.setattr(encoded_images, "_BLOCK_BYTES", 200)  # several blocks
  (tmp_path / "own").mkdir()
  data, task = make(tmp_path / "own")
  size = 6 if make is index else None
  run(data, tmp_path / "new", task=task, image_size=size)
  source, converted = load(data, task, size), load(f"npy:{tmp_path / 'new'}", task)
  assert_same(source, converted)
  assert source._replace(name="npy", train=None, test=None, notes=()) == converted._replace(
    train=None, test=None
  )
  assert isinstance(converted.train.images, np.memmap)
  if make is identities:
    with pytest.raises(UserError, match="choose the task verification"):
      sources.load(f"npy:{tmp_path / 'new'}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """(source, folder with its 24 images converted)."""
  root = tmp_path_factory.mktemp("whole")
  data, _ = folder(root / "own")
  run(data, root / "new")
  return data, root / "new"


def contents(path):
  return {file.name: file.read_bytes() for file in path.iterdir()}


@settings(max_examples=25)
@given(st.integers(0, 1500), st.none() | st.integers(0, 800))
def test_an_interrupted_conversion_goes_on_where_it_was(whole, train_bytes, test_bytes):
  data, complete = whole
  with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
    partial = Path(root, "new.partial")
    shutil.copytree(complete, partial)
    kept = 0
    for name, size in (("x_train.npy", train_bytes), ("x_test.npy", test_bytes)):
      if size is None:
        (partial / name).unlink()
      else:
        os.truncate(partial / name, min(size, os.path.getsize(partial / name)))
        kept += max(0, (partial / name).stat().st_size - 128) // 75
    with pytest.raises(UserError, match="not complete"):
      sources.load(f"npy:{root}/new")
    decode, decoded = image_decoding.decode, []
    patch.setattr(image_decoding, "decode", lambda *a: decoded.append(a) or decode(*a))
    run(data, Path(root, "new"))
    assert contents(Path(root, "new")) == contents(complete)
    assert len(decoded) == 24 - kept


def test_a_complete_conversion_is_left_as_it_is(whole, capsys):
  data, complete = whole
  before = {file: file.stat().st_mtime_ns for file in complete.iterdir()}
  run(data, complete)
  assert f"is complete\ntrain with --data=npy:{complete}\n" in capsys.readouterr().out
  assert before == {file: file.stat().st_mtime_ns for file in complete.iterdir()}


def test_a_damaged_image_can_be_replaced_between(tmp_path, capsys):
  data, _ = folder(tmp_path / "own")
  damaged = tmp_path / "own" / "val" / "zoe" / "bee" / "1.png"
  good = damaged.read_bytes()
  damaged.write_bytes(good[:45])  # its header remains
  with pytest.raises(UserError, match=r"1\.png is a damaged image"):
    run(data, tmp_path / "new")
  damaged.write_bytes(good)
  run(data, tmp_path / "new")
  changed = tmp_path / "own" / "Train" / "ann" / "ant" / "0.png"
  write(changed, flat(200, 5))
  with pytest.raises(UserError, match="the data changed since"):
    run(data, tmp_path / "new")
  (tmp_path / "new").rename(tmp_path / "new.partial")
  with pytest.raises(UserError, match="the data changed since"):
    run(data, tmp_path / "new")


def test_a_damaged_image_can_be_removed_between(tmp_path, monkeypatch):
  data, task = folder(tmp_path / "own")
  damaged = tmp_path / "own" / "val" / "zoe" / "bee" / "1.png"
  good = damaged.read_bytes()
  damaged.write_bytes(good[:45])
  with pytest.raises(UserError, match=r"1\.png is a damaged image"):
    run(data, tmp_path / "new")
  damaged.unlink()
  decode, decoded = image_decoding.decode, []
  monkeypatch.setattr(image_decoding, "decode", lambda *a: decoded.append(a) or decode(*a))
  run(data, tmp_path / "new")
  assert len(decoded) == 7  # the other test images
  source, converted = load(data, task), load(f"npy:{tmp_path / 'new'}", task)
  assert_same(source, converted)


def test_a_complete_conversion_without_one_of_its_files_is_not_called_complete(
  whole, tmp_path, capsys
):
  data, complete = whole
  new = shutil.copytree(complete, tmp_path / "new")
  (new / "x_test.npy").unlink()
  with pytest.raises(UserError, match=r"has lost x_test\.npy"):
    run(data, new)
  (new / convert.RECORD).write_bytes(b"mine")
  with pytest.raises(UserError, match="not of a conversion, or is damaged"):
    run(data, new)


def test_two_conversions_at_once(tmp_path, monkeypatch, capsys):
  data, _ = folder(tmp_path / "own")
  (tmp_path / "new").mkdir(mode=0o700)
  load = convert.from_config

  def while_another_converts(*arguments, **options):
    monkeypatch.setattr(convert, "from_config", load)
    run(data, tmp_path / "new")
    return load(*arguments, **options)

  monkeypatch.setattr(convert, "from_config", while_another_converts)
  run(data, tmp_path / "new")
  assert "new is complete\ntrain with" in capsys.readouterr().out
  assert {path.name for path in tmp_path.iterdir()} == {"own", "new"}
  assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_an_interruption_says_what_is_kept(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(encoded_images, "_BLOCK_BYTES", 200)
  data, _ = folder(tmp_path / "own")
  decode, count = image_decoding.decode, itertools.count()

  def stopped(*arguments):
    if next(count) == 5:
      raise KeyboardInterrupt
    return decode(*arguments)

  monkeypatch.setattr(image_decoding, "decode", stopped)
  assert guard(lambda: run(data, tmp_path / "new")) == 130
  kept = r"(\d) of 24 images are converted, and the same command goes on from there\.\n"
  assert int(re.search(kept, capsys.readouterr().err)[1]) > 0
  write(tmp_path / "own" / "val" / "caf\u00e9" / "bee" / "9.png", flat(9, 5))
  run(data, tmp_path / "new")
  assert "note: the data changed; " in capsys.readouterr().out


def test_tfds_data_that_changed_are_not_mixed(tmp_path, monkeypatch):
  (tmp_path / "own").mkdir()
  file = tmp_path / "prepared" / "set" / "1.0.0" / "data"
  file.parent.mkdir(parents=True)
  file.touch()
  data, _ = archive(tmp_path / "own")
  monkeypatch.setattr(sources.tfds, "prepared", lambda folder: ["set"])
  monkeypatch.setattr(sources.tfds, "load", lambda *_: sources.load(data))
  run("set", tmp_path / "new", data_dir=str(tmp_path / "prepared"))
  monkeypatch.chdir(tmp_path)
  run("set", tmp_path / "new", data_dir="prepared")
  file.write_text("prepared again")
  with pytest.raises(UserError, match="the data changed since"):
    run("set", tmp_path / "new", data_dir="prepared")


def test_what_it_refuses_is_one_sentence(whole, tmp_path, capsys):
  data, complete = whole
  (tmp_path / "used").mkdir()
  (tmp_path / "used" / "mine").touch()
  (tmp_path / "half.partial").mkdir()
  (tmp_path / "half.partial" / "y_train.npy").touch()
  for changes, words in [
    ({"to": ""}, "pass --to=DIR"),
    ({"data": f"npy:{complete}"}, "has this form already"),
    ({"data": "digits"}, "a conversion with other options"),
    ({"image_size": 4}, "a conversion with other options"),
    ({"to": str(tmp_path / "used")}, "holds other files"),
    ({"to": str(tmp_path / "used" / "mine")}, "mine is a file;"),
    ({"to": str(tmp_path / ("x" * 300))}, "shorten it"),
    ({"to": f"{data[7:]}/new"}, "is in the data's folder"),
    ({"to": str(tmp_path / "half")}, "holds other arrays"),
    ({"to": str(tmp_path / "used" / "mine" / "new")}, "cannot be read or written"),
    ({"to": str(tmp_path / "new"), "data": "folder:none"}, "There is no folder"),
    ({"to": str(tmp_path / "new"), "data": "identities"}, "pass --task=verification"),
  ]:
    config = options.make(convert.ConvertFlags, **{"data": data, "to": str(complete), **changes})
    assert guard(lambda config=config: convert.run(config)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
  assert not list(tmp_path.glob("new*"))
  assert contents(tmp_path / "used") == {"mine": b""}
