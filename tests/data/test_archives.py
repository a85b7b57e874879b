"""CIFAR-10 and MNIST from archives that the tests write, as the official ones are laid out."""

import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest

from fedjax_norm.data.archives import registry as archives
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError


def test_the_sources_name_what_can_be_prepared():
  assert set(sources.ARCHIVED) == set(archives.ARCHIVES)


def cifar_batches():
  """File name -> (images [4, 32, 32, 3], labels [4])."""
  rng = np.random.default_rng(0)
  names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
  return {
    n: (rng.integers(0, 256, (4, 32, 32, 3), np.uint8), rng.integers(0, 10, 4)) for n in names
  }


def as_pickle(images, labels):
  """As Python 2 wrote it: protocol 2 with bytes as keys, rows of red, green and blue."""
  rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
  return pickle.dumps({b"data": rows, b"labels": labels.tolist()}, protocol=2)


def as_records(images, labels):
  rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
  return np.concatenate([labels[:, None].astype(np.uint8), rows], 1).tobytes()


def write_tar(path, files):
  with tarfile.open(path, "w:gz") as archive:
    for name, data in files.items():
      member = tarfile.TarInfo(f"cifar-10/{name}")
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
  ("archive", "encode", "suffix"),
  [("cifar-10-python.tar.gz", as_pickle, ""), ("cifar-10-binary.tar.gz", as_records, ".bin")],
)
def test_cifar10_keeps_every_pixel_and_label(tmp_path, archive, encode, suffix):
  batches = cifar_batches()
  files = {f"{name}{suffix}": encode(*batch) for name, batch in batches.items()}
  write_tar(tmp_path / archive, {**files, "batches.meta": b"names", "readme.html": b"text"})
  data = str(tmp_path / "data")
  assert archives.prepare("cifar10", str(tmp_path), data) == {"train": 20, "test": 4}
  source = sources.load("cifar10", data)
  assert source.class_names[:3] == ("airplane", "automobile", "bird")
  expected = {
    "train": [np.concatenate(part) for part in zip(*list(batches.values())[:5], strict=True)],
    "test": batches["test_batch"],
  }
  for split, (images, labels) in expected.items():
    examples = getattr(source, split)
    order = [next(i for i in range(len(labels)) if (images[i] == x).all()) for x in examples.images]
    assert sorted(order) == list(range(len(labels)))  # TFDS shuffles
    np.testing.assert_array_equal(examples.labels, labels[order])


class Evil:
  def __reduce__(self):
    return print, ("run by the pickle",)


def cifar_files(**changed):
  return {name: as_pickle(*batch) for name, batch in cifar_batches().items()} | changed


@pytest.mark.parametrize(
  ("files", "words"),
  [
    (cifar_files(data_batch_1=pickle.dumps(Evil(), protocol=2)), "is damaged"),
    (cifar_files(data_batch_1=pickle.dumps({b"data": 1}, protocol=2)), "is damaged"),
    (cifar_files(test_batch=bytes(3074)), "is damaged"),
    (cifar_files(test_batch=b""), "is damaged"),
    ({"readme.html": b""}, "lacks data_batch_1"),
  ],
  ids=("code", "no array", "other length", "empty", "other files"),
)
def test_an_archive_with_something_else_is_refused(tmp_path, files, words, capsys):
  write_tar(tmp_path / "cifar-10-python.tar.gz", files)
  with pytest.raises(UserError, match=words):
    archives.prepare("cifar10", str(tmp_path), str(tmp_path / "data"))
  assert capsys.readouterr().out == ""
  assert not (tmp_path / "data").exists()


def idx(array):
  header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
  return header + array.astype(np.uint8).tobytes()


def write_mnist(folder, packed=True):
  rng, result = np.random.default_rng(1), {}
  for split, prefix, count in (("train", "train", 6), ("test", "t10k", 3)):
    images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count)
    for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
      data = gzip.compress(idx(array)) if packed else idx(array)
      (folder / f"{prefix}-{name}{'.gz' if packed else ''}").write_bytes(data)
    result[split] = images, labels
  return result


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_keeps_every_pixel_and_label(tmp_path, packed):
  written = write_mnist(tmp_path, packed)
  data = str(tmp_path / "data")
  assert archives.prepare("mnist", str(tmp_path), data) == {"train": 6, "test": 3}
  source = sources.load("mnist", data)
  for split, (images, labels) in written.items():
    examples = getattr(source, split)
    pixels = examples.images[..., 0]
    order = [next(i for i in range(len(labels)) if (images[i] == x).all()) for x in pixels]
    assert sorted(order) == list(range(len(labels)))
    np.testing.assert_array_equal(examples.labels, labels[order])


def test_a_data_set_in_a_format_that_needs_tensorflow_is_named(tmp_path):
  write_mnist(tmp_path)
  data = str(tmp_path / "data")
  archives.prepare("mnist", str(tmp_path), data)
  assert archives.prepare("mnist", None, data) is None  # it is there
  (info,) = (tmp_path / "data").glob("*/*/dataset_info.json")
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match=r"mnist/3.0.1 has a format .* delete this folder"):
    archives.prepare("mnist", str(tmp_path), data)


@pytest.mark.parametrize(
  ("name", "data", "words"),
  [
    ("t10k-labels-idx1-ubyte.gz", None, "There is no .*t10k-labels"),
    ("t10k-labels-idx1-ubyte.gz", b"no gzip", "is damaged or not an IDX file"),
    ("t10k-labels-idx1-ubyte.gz", gzip.compress(idx(np.arange(5))), "are not those of MNIST"),
    ("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((6, 8, 8)))), "not those of MNIST"),
  ],
  ids=("missing", "no gzip", "fewer labels", "other size"),
)
def test_files_that_are_not_those_of_mnist_are_refused(tmp_path, name, data, words):
  write_mnist(tmp_path)
  (tmp_path / name).unlink()
  if data is not None:
    (tmp_path / name).write_bytes(data)
  with pytest.raises(UserError, match=words):
    archives.prepare("mnist", str(tmp_path), str(tmp_path / "data"))


@pytest.mark.parametrize("name", sources.ARCHIVED)
def test_without_an_archive_the_error_says_what_to_download(tmp_path, name):
  for path in (None, str(tmp_path)):
    with pytest.raises(UserError, match=r"download .* from http"):
      archives.prepare(name, path, str(tmp_path / "data"))
