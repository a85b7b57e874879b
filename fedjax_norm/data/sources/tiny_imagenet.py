"""Prepares Tiny-ImageNet with a TFDS builder that needs no TensorFlow.

Run `python -m fedjax_norm.data.sources.tiny_imagenet --manual_dir=... --data_dir=...`, where
--manual_dir is the folder with the official `tiny-imagenet-200.zip` and --data_dir the folder to
prepare the data set in.
"""

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from fedjax_norm.errors import UserError

ARCHIVE = "tiny-imagenet-200.zip"

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
    UserError: the archive is missing, damaged or has another layout.
  """
  if not path.is_file():
    raise UserError(f"There is no {path}; download {ARCHIVE} into the manual folder.")
  try:
    with zipfile.ZipFile(path) as archive:
      members = archive.namelist()
      wnids = archive.read(f"{_ROOT}/wnids.txt").decode().split()
      annotations = archive.read(f"{_ROOT}/val/val_annotations.txt").decode().splitlines()
  except (zipfile.BadZipFile, UnicodeDecodeError) as error:
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


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
  """Tiny-ImageNet: 64x64 RGB images of 200 classes; splits `train` and `validation`."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "The first version."}  # noqa: RUF012 (TFDS reads a plain attribute)
  MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put the official {ARCHIVE} into the manual folder."

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="A subset of ImageNet with 200 classes, its images scaled to 64x64 pixels.",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(64, 64, 3), encoding_format="jpeg"),
          "label": tfds.features.ClassLabel(),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    path = Path(dl_manager.manual_dir) / ARCHIVE
    index = read_index(path)
    # The archive has the names of the classes, so `_info` could not set them.
    self.info.features["label"].names = index.wnids
    return {
      "train": self._generate_examples(path, index.train),
      "validation": self._generate_examples(path, index.validation),
    }

  def _generate_examples(
    self, path: Path, members: list[tuple[str, int]]
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    # The JPEG files are copied without decoding, which would need TensorFlow.
    with zipfile.ZipFile(path) as archive:
      for member, label in members:
        with archive.open(member) as image:
          yield member, {"image": image, "label": label}


def prepare(manual_dir: str, data_dir: str) -> tfds.core.DatasetBuilder:
  """Prepares the data set in array_record format, unless it is prepared already.

  Args:
    manual_dir: the folder with the official archive.
    data_dir: the folder to prepare the data set in; `registry.load('tiny_imagenet', data_dir)`
      reads it.

  Returns:
    The builder, whose `info` has the number of examples of each split.

  Raises:
    UserError: the archive is missing, damaged or has another layout, or `data_dir` cannot be
      written to.
  """
  builder = TinyImagenet(data_dir=data_dir, file_format="array_record")
  # `builder.is_prepared` would warn about a folder that does not exist yet.
  if Path(builder.data_dir, "dataset_info.json").is_file():
    return builder
  path = Path(manual_dir) / ARCHIVE
  read_index(path)
  config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
  try:
    # Nothing is downloaded, but TFDS makes folders for downloads, here outside `data_dir`.
    with tempfile.TemporaryDirectory() as downloads:
      builder.download_and_prepare(download_dir=downloads, download_config=config)
  except zipfile.BadZipFile as error:
    raise UserError(f"{path} is damaged; download it again.") from error
  except OSError as error:
    raise UserError(f"{data_dir} cannot be written to; choose another data folder.") from error
  return builder


def main(argv: list[str] | None = None) -> int:
  """Runs the command line and returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m fedjax_norm.data.sources.tiny_imagenet",
    description="Prepare Tiny-ImageNet for fedjax_norm.",
  )
  parser.add_argument("--manual_dir", required=True, help=f"Folder that contains {ARCHIVE}.")
  parser.add_argument("--data_dir", required=True, help="Folder to prepare the data set in.")
  args = parser.parse_args(argv)
  tfds.disable_progress_bar()
  try:
    splits = prepare(args.manual_dir, args.data_dir).info.splits
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(
    f"tiny_imagenet is prepared in {args.data_dir}: {splits['train'].num_examples} training and"
    f" {splits['validation'].num_examples} validation images."
  )
  return 0


if __name__ == "__main__":
  sys.exit(main())
