"""Several processes that load one source: each reads only the images of its clients."""

import io
import mmap
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.small_data import saved, write
from PIL import Image

from fedjax_norm.data import image_decoding, process_local
from fedjax_norm.data.archives import registry as archives
from fedjax_norm.data.federated import federate, gather
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.sources import npy
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.data.transforms import scaling
from fedjax_norm.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "tfds"
PROCESSES = 3
KINDS = ("digits", "synthetic", "npz", "npy", "folder", "tfds")


def write_arrays(root):
  rng = np.random.default_rng(0)
  arrays = {
    "x_train": rng.random((40, 6, 6, 3), np.float32) + 0.1,
    "y_train": np.arange(40) % 4,
    "x_test": rng.random((8, 6, 6, 3), np.float32) + 0.1,
    "y_test": np.arange(8) % 4,
    "client_train": np.arange(40) // 7,
  }
  saved("npz", root, arrays)
  (root / "npy").mkdir()
  saved("npy", root / "npy", arrays)


def jpeg(rng):
  stream = io.BytesIO()
  Image.fromarray(rng.integers(1, 256, (64, 64, 3), np.uint8)).save(stream, "JPEG")
  return stream.getvalue()


def write_folder(root):
  rng = np.random.default_rng(1)
  for i in range(40):
    path = root / f"client{i % 5}" / f"class{i // 5 % 2}" / f"{i}.png"
    write(path, rng.integers(1, 256, (5, 5, 3), np.uint8))


def write_tfds(root):
  rng = np.random.default_rng(2)
  base = "tiny-imagenet-200"
  with zipfile.ZipFile(root / "tiny-imagenet-200.zip", "w") as archive:
    archive.writestr(f"{base}/wnids.txt", "n0\nn1\nn2\n")
    for i in range(30):
      archive.writestr(f"{base}/train/n{i % 3}/images/{i}.JPEG", jpeg(rng))
    archive.writestr(f"{base}/val/images/0.JPEG", jpeg(rng))
    archive.writestr(f"{base}/val/val_annotations.txt", "0.JPEG\tn1\n")
  archives.prepare("tiny_imagenet", str(root), str(root / "tfds"))


@pytest.fixture(scope="module")
def load(tmp_path_factory):
  """Returns load(kind, **options of sources.load), which loads a source by its kind."""
  root = tmp_path_factory.mktemp("sets")
  write_arrays(root)
  write_folder(root / "folder")
  write_tfds(root)
  arguments = {
    "digits": ("digits",),
    "synthetic": ("synthetic:train=60,test=9,size=6,clients=9",),
    "npz": (f"npz:{root / 'data.npz'}",),
    "npy": (f"npy:{root / 'npy'}",),
    "folder": (f"folder:{root / 'folder'}",),
    "tfds": ("tiny_imagenet", str(root / "tfds")),
  }
  return lambda kind, **options: sources.load(*arguments[kind], **options)


def division(labels, clients):
  """Returns the partition: natural clients if the source has some, else a Dirichlet partition."""
  if clients is not None:
    return partitions.make("natural", labels, None, 0, clients=clients)
  return partitions.make("dirichlet", labels, 5, 0, alpha=1.0)


def select_local(process):
  """Returns a function that selects the examples of clients p, p + 3, p + 6, ... of process p."""

  def choose(labels, clients):
    return np.flatnonzero(partitions.owners(division(labels, clients)) % PROCESSES == process)

  return choose


def local_ids(source, process):
  return select_local(process)(source.train.labels, source.train.clients)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "npy"])
@pytest.mark.parametrize("image_size", [None, 4])
def test_local_images_equal_those_of_the_whole_and_others_are_zero(load, kind, image_size):
  whole = load(kind, image_size=image_size)
  assert (whole.train.images != 0).any((1, 2, 3)).all()
  union = np.zeros_like(whole.train.images)
  for process in range(PROCESSES):
    part = load(kind, image_size=image_size, select_local=select_local(process))
    ids = local_ids(whole, process)
    assert 0 < len(ids) < len(whole.train.labels)
    images = part.train.images
    assert images.dtype == whole.train.images.dtype
    assert images.shape == whole.train.images.shape
    np.testing.assert_array_equal(images[ids], whole.train.images[ids])
    assert not np.delete(images, ids, axis=0).any()
    union += images
    # Everything except the training images is complete.
    np.testing.assert_array_equal(part.train.labels, whole.train.labels)
    np.testing.assert_array_equal(part.train.clients, whole.train.clients)
    for one, other in zip(part.test[:2], whole.test[:2], strict=True):
      np.testing.assert_array_equal(one, other)
    assert part._replace(train=0, test=0) == whole._replace(train=0, test=0)
  np.testing.assert_array_equal(union, whole.train.images)


@pytest.mark.parametrize("kind", KINDS)
def test_the_choice_is_made_once_from_all_labels_and_clients(load, kind):
  given = []

  def choose(labels, clients):
    given.append((labels, clients))
    return np.arange(len(labels)) == 3  # a boolean mask

  whole, part = load(kind), load(kind, select_local=choose)
  assert len(given) == 1
  for values, expected in zip(given[0], (whole.train.labels, whole.train.clients), strict=True):
    np.testing.assert_array_equal(values, expected)
  np.testing.assert_array_equal(part.train.images[3], whole.train.images[3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_without_examples_is_refused(load, kind):
  with pytest.raises(UserError, match="at most as many processes as clients"):
    load(kind, select_local=lambda labels, clients: np.zeros(0, int))


@pytest.mark.parametrize("kind", ["folder", "tfds"])
def test_only_local_images_are_decoded(load, kind, monkeypatch):
  decode, seen = image_decoding.decode, []

  def recording_decode(stream, name, *rest):
    seen.append(name)
    return decode(stream, name, *rest)

  monkeypatch.setattr(image_decoding, "decode", recording_decode)
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # one thread decodes in order
  whole = load(kind)
  names = seen[: len(whole.train.labels)]  # of the training images in their order
  tests = seen[len(names) :]
  assert len(tests) == len(whole.test.labels)
  for process in range(PROCESSES):
    seen.clear()
    load(kind, select_local=select_local(process))
    assert seen == [names[i] for i in local_ids(whole, process)] + tests


def test_a_damaged_image_is_an_error_only_in_the_process_that_reads_it(tmp_path):
  for split in ("train", "test"):
    write_folder(tmp_path / split)
  broken = tmp_path / "train" / "client0" / "class0" / "0.png"
  broken.write_bytes(broken.read_bytes()[:60])  # its header remains
  with pytest.raises(UserError, match=r"0\.png is a damaged image"):
    sources.load(f"folder:{tmp_path}", select_local=select_local(0))
  for process in range(1, PROCESSES):
    sources.load(f"folder:{tmp_path}", select_local=select_local(process))


class Watched(np.memmap):
  """A memory map that records the rows that are read."""

  def __getitem__(self, index):
    rows = np.arange(len(self))[index]
    self.read.update(rows.tolist())
    return np.asarray(self)[index]

  def __array_finalize__(self, origin):
    super().__array_finalize__(origin)
    self.read = getattr(origin, "read", set())


def test_rows_of_other_processes_are_not_read_from_a_file(load, monkeypatch):
  open_map = npy._map
  monkeypatch.setattr(npy, "_map", lambda path: open_map(path).view(Watched))
  whole = load("npy")
  assert whole.train.images.read == set(range(40))
  for process in range(PROCESSES):
    part = load("npy", select_local=select_local(process))
    ids = local_ids(whole, process)
    assert isinstance(part.train.images, np.memmap)
    scaling.channel_moments(part.train.images, ids)
    assert part.train.images.read == set(ids.tolist())
    assert part.test.images.read == set(range(8))


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_values_of_other_processes_are_not_checked(tmp_path, kind):
  """Only the images that the process reads, gathers and computes statistics of are finite."""
  write_arrays(tmp_path)
  arrays = dict(np.load(tmp_path / "data.npz"))
  nodes = division(arrays["y_train"], arrays["client_train"])
  ids = np.flatnonzero(partitions.owners(nodes) % PROCESSES == 1)
  arrays["x_train"][np.setdiff1d(np.arange(40), ids)] = np.nan
  np.savez(tmp_path / "data.npz", **arrays)
  np.save(tmp_path / "npy" / "x_train.npy", arrays["x_train"])
  name = f"{kind}:{tmp_path / ('npy' if kind == 'npy' else 'data.npz')}"
  with pytest.raises(UserError, match="not finite"):
    sources.load(name)
  source = sources.load(name, select_local=select_local(1))
  data = federate(source.train, nodes)
  part = gather(data, np.asarray([1, 4]), len(ids))
  np.testing.assert_array_equal(part.images, arrays["x_train"][ids])
  assert np.isfinite(scaling.channel_moments(source.train.images, ids).m2).all()


def test_unwritten_rows_take_no_memory():
  page, count = mmap.PAGESIZE, 3000
  before = resident()
  images = process_local.lazy_zeros((count, page, 1, 1), np.dtype(np.uint8))
  images[::10] = 1
  pages = (resident() - before) / page
  assert images.flags.c_contiguous
  assert images.sum() == count // 10 * page
  assert pages < count / 4


def resident():
  """Returns the resident memory of this process in bytes."""
  if not Path("/proc/self/statm").is_file():
    pytest.skip("resident memory is only known on Linux")
  return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.long
def test_a_real_prepared_set_is_read_partly():
  if not (SHARED / "mnist").is_dir():
    pytest.skip("mnist is not prepared in ../shared/tfds")
  whole = sources.load("mnist", str(SHARED)).train
  owner = partitions.owners(partitions.make("classes", whole.labels, 5, 0, classes_per_client=2))
  ids = np.flatnonzero(owner == 2)
  part = sources.load("mnist", str(SHARED), select_local=lambda *_: ids).train
  np.testing.assert_array_equal(part.images[ids], whole.images[ids])
  np.testing.assert_array_equal(part.labels, whole.labels)
  assert not part.images[owner != 2].any()
  parts = [scaling.channel_moments(whole.images, np.flatnonzero(owner == k)) for k in range(5)]
  np.testing.assert_array_equal(
    scaling.channel_statistics(scaling.merge_channel_moments(parts)),
    scaling.channel_statistics(scaling.channel_moments(whole.images)),
  )
