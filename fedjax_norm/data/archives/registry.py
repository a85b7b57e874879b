"""The archives that can be prepared, by the name of their data set."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from fedjax_norm.data.archives import cifar10, mnist, tiny_imagenet
from fedjax_norm.data.archives.builder import ArchiveBuilder, Contents, is_prepared, write
from fedjax_norm.errors import UserError


class Archive(NamedTuple):
  """An official archive.

  Attributes:
    builder: the data set that is made of it.
    files: names of its files; of alternatives, each is a name, and one of them is enough.
    address: where its owners offer it.
    read: (path of the first file) -> its contents; raises UserError if it is damaged.
  """

  builder: type[ArchiveBuilder]
  files: tuple[str, ...]
  address: str
  read: Callable[[Path], Contents]


ARCHIVES: Mapping[str, Archive] = MappingProxyType(
  {
    "cifar10": Archive(
      cifar10.Cifar10,
      ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
      "https://www.cs.toronto.edu/~kriz/",
      cifar10.read,
    ),
    "mnist": Archive(
      mnist.Mnist,
      ("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte"),
      "https://ossci-datasets.s3.amazonaws.com/mnist/",
      mnist.read,
    ),
    "tiny_imagenet": Archive(
      tiny_imagenet.TinyImagenet,
      ("tiny-imagenet-200.zip",),
      "http://cs231n.stanford.edu/",
      tiny_imagenet.read,
    ),
  }
)


def prepare(name: str, path: str | None, data_dir: str) -> Mapping[str, int] | None:
  """Prepares a data set in ``data_dir``, so that ``--data=NAME --data_dir=DIR`` reads it.

  Args:
    name: a key of ``ARCHIVES``.
    path: the archive, or the folder that holds it.
    data_dir: folder of prepared data sets.

  Returns:
    Split -> number of examples; None if the data set was there already.

  Raises:
    UserError: the archive is missing, damaged or has another layout, or ``data_dir`` cannot be
      written to.
  """
  archive = ARCHIVES[name]
  if is_prepared(archive.builder, data_dir):
    return None
  contents = archive.read(_find(name, archive, path))
  write(archive.builder, contents, data_dir)
  return contents.counts


def _find(name: str, archive: Archive, path: str | None) -> Path:
  """Returns the path of the archive, or of the first of its files."""
  download = f"download {' or '.join(archive.files)} from {archive.address}"
  if name == "mnist":
    download = f"download its four files (such as {archive.files[0]}) from {archive.address}"
  if path is None:
    raise UserError(f"--archive is missing: {download}, and give the folder as --archive.")
  given = Path(path).expanduser()
  if given.is_file():
    return given
  if not given.is_dir():
    raise UserError(f"There is no file or folder {given}; correct --archive.")
  found = [given / file for file in archive.files if (given / file).is_file()]
  if not found:
    raise UserError(f"{given} holds no archive of {name}; {download}.")
  return found[0]
