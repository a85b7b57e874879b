"""Tiny-ImageNet: the official archive."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from fedjax_norm.data.archives.builder import ArchiveBuilder, Contents, Example
from fedjax_norm.errors import UserError

_ROOT = "tiny-imagenet-200"


class Index(NamedTuple):
  """The classes and images in the official archive of Tiny-ImageNet.

  Attributes:
    wnids: the WordNet ids of the classes, in the archive's order: class i is `wnids[i]`.
    train: (path in the archive, class) of each training image.
    validation: (path in the archive, class) of each validation image.
  """

  wnids: list[str]
  train: list[tuple[str, int]]
  validation: list[tuple[str, int]]


def read_index(path: Path) -> Index:
  """Reads the classes and the names of the images in the archive.

  Training images are `train/WNID/images/*.JPEG`; `val/val_annotations.txt` lists the validation
  images. The archive's test images have no labels and are left out.

  Raises:
    UserError: the archive is damaged or has another layout.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      members = archive.namelist()
      wnids = archive.read(f"{_ROOT}/wnids.txt").decode().split()
      annotations = archive.read(f"{_ROOT}/val/val_annotations.txt").decode().splitlines()
  except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
    raise UserError(f"{path} is damaged; download it again.") from error
  except KeyError as error:
    raise UserError(
      f"{path} is not the official archive ({error.args[0]}); download it again."
    ) from error
  label_of = {wnid: label for label, wnid in enumerate(wnids)}

  train = []
  for member in members:
    parts = member.split("/")
    if parts[:2] == [_ROOT, "train"] and parts[-1].endswith(".JPEG"):
      train.append((member, _label(label_of, parts[2], path)))
  validation = []
  for line in filter(None, annotations):
    file_name, wnid, *_ = [*line.split("\t"), ""]
    member = f"{_ROOT}/val/images/{file_name}"
    validation.append((member, _label(label_of, wnid, path)))
  missing = {member for member, _ in validation}.difference(members)
  if missing:
    raise UserError(f"{path} lacks the validation image {min(missing)}; download it again.")
  if not train or not validation:
    raise UserError(f"{path} has no training or no validation images; download it again.")
  return Index(wnids, train, validation)


def _label(label_of: dict[str, int], wnid: str, path: Path) -> int:
  if wnid not in label_of:
    raise UserError(
      f"{path} has an image of class {wnid!r}, which wnids.txt does not list; download it again."
    )
  return label_of[wnid]


class TinyImagenet(ArchiveBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Tiny-ImageNet: 64x64 RGB images of 200 classes; splits `train` and `validation`."""

  name = "tiny_imagenet"
  VERSION = tfds.core.Version("1.0.0")
  shape = (64, 64, 3)
  encoding = "jpeg"
  about = "A subset of ImageNet with 200 classes, its images scaled to 64x64 pixels."


def read(path: Path) -> Contents:
  """Reads the archive; the JPEG files are copied without decoding.

  Raises:
    UserError: the archive is damaged or has another layout.
  """
  index = read_index(path)
  members = {"train": index.train, "validation": index.validation}

  def examples(split: str) -> Iterator[Example]:
    with zipfile.ZipFile(path) as archive:
      for member, label in members[split]:
        try:
          image = io.BytesIO(archive.read(member))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
          raise UserError(f"{path} is damaged; download it again.") from error
        yield member, image, label

  counts = {split: len(part) for split, part in members.items()}
  return Contents(tuple(index.wnids), counts, examples)
