"""Writes the images of an archive as a TFDS data set, without TensorFlow."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import tensorflow_datasets as tfds

from fedjax_norm.errors import UserError

_FORMAT = "array_record"

Example = tuple[str, BinaryIO, int]
"""Name, encoded image and class of an example."""


class Contents(NamedTuple):
  """The images and classes in an archive.

  Attributes:
    class_names: name of each class.
    counts: split -> number of examples.
    read: (split) -> its examples, which are read from the archive one by one.
  """

  class_names: tuple[str, ...]
  counts: Mapping[str, int]
  read: Callable[[str], Iterator[Example]]


class ArchiveBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """A TFDS data set of encoded images with one class each; a subclass for each data set.

  Attributes:
    shape: height, width and channels of the images.
    encoding: format of the images, ``png`` or ``jpeg``.
    about: what the data set is, a sentence.
  """

  shape: ClassVar[tuple[int, int, int]]
  encoding: ClassVar[str]
  about: ClassVar[str]

  def __init__(self, contents: Contents, **given: Any) -> None:
    """Takes the contents of the archive, and what a TFDS builder takes."""
    self._contents = contents
    super().__init__(**given)

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      "image": tfds.features.Image(shape=self.shape, encoding_format=self.encoding),
      "label": tfds.features.ClassLabel(names=self._contents.class_names),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.about,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
    return {split: self._generate_examples(split) for split in self._contents.counts}

  def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # TFDS copies files as they are; to encode arrays, it would need TensorFlow.
    for name, image, label in self._contents.read(split):
      yield name, {"image": image, "label": label}


def is_prepared(kind: type[ArchiveBuilder], data_dir: str) -> bool:
  """Returns whether the data set is in the folder already.

  Raises:
    UserError: it is there in a format that needs TensorFlow.
  """
  folder = Path(data_dir, kind.name, str(kind.VERSION))
  info = folder / "dataset_info.json"
  if info.is_file() and f'"{_FORMAT}"' not in info.read_text(errors="replace"):
    raise UserError(f"{folder} has a format that needs TensorFlow; delete this folder first.")
  return info.is_file()


def write(kind: type[ArchiveBuilder], contents: Contents, data_dir: str) -> None:
  """Writes the data set in the format array_record into the folder ``data_dir``.

  Raises:
    UserError: the folder cannot be written to.
  """
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  tfds.disable_progress_bar()
  try:
    builder = kind(contents, data_dir=data_dir, file_format=_FORMAT)
    # Nothing is downloaded, but TFDS makes folders for downloads, here outside `data_dir`.
    with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(download_dir=downloads, download_config=config)
  except OSError as error:
    raise UserError(f"{data_dir} cannot be written to; choose another data folder.") from error
