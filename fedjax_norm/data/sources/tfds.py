"""Reads data sets that TFDS has prepared, without TensorFlow."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_norm.data import image_decoding, process_local
from fedjax_norm.data.encoded_images import EncodedImages
from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.errors import UserError

_CHUNK = 1000
_INFO = "dataset_info.json"


def prepared(data_dir: str) -> list[str]:
  """Lists the prepared data sets in a folder, as `dataset` or `dataset/config`.

  Raises:
    UserError: the folder does not exist.
  """
  root = Path(data_dir)
  if not root.is_dir():
    raise UserError(f"There is no folder {data_dir!r}; give the folder of the prepared data sets.")
  versions = {info.parent.parent for depth in (2, 3) for info in root.glob("*/" * depth + _INFO)}
  return sorted(folder.relative_to(root).as_posix() for folder in versions)


def load(
  name: str,
  data_dir: str,
  image_size: int | None = None,
  select_local: SelectLocal | None = None,
  decode: bool = True,
) -> Source:
  """Loads the newest version of a prepared image classification set, as uint8.

  The test examples are the split `test`, or `validation` if there is no `test`. The arguments are
  those of ``registry.load``; `image_size` None requires that all images have one size. Images
  outside `select_local` are not decoded.

  Raises:
    UserError: the data set has a file format that needs TensorFlow, lacks a split, does not consist
      of 8-bit images with one class label each, or is damaged.
  """
  import tensorflow_datasets as tfds  # imported here because that takes a second

  folder = _newest(Path(data_dir, name))
  try:
    builder = tfds.builder_from_directory(folder)
    features = builder.info.features
    splits = set(builder.info.splits)
  except Exception as error:  # TFDS raises various errors for damaged metadata
    raise UserError(f"{folder} cannot be read as a prepared data set; prepare it again.") from error
  image_key, label_key = _keys(tfds, name, features)
  channels = features[image_key].shape[-1]
  if features[image_key].np_dtype != np.uint8 or channels not in (1, 3):
    raise UserError(f"The images of {name} are not 8-bit gray or RGB; choose another data set.")
  test_split = "test" if "test" in splits else "validation"
  if not {"train", test_split} <= splits:
    raise UserError(
      f"{name} has the splits {', '.join(sorted(splits))}, but needs 'train' and 'test' or"
      " 'validation'; choose another data set."
    )

  def read(split: str, select_local: SelectLocal | None = None) -> Examples:
    # Reading encoded images is ten times faster, and TFDS needs no image library for it.
    decoders = {image_key: tfds.decode.SkipDecoding()}
    try:
      records = builder.as_data_source(split, decoders=decoders)
      count = len(records)
    except NotImplementedError as error:
      raise UserError(
        f"{name} was prepared in a format that needs TensorFlow; prepare it again with"
        " file_format=array_record."
      ) from error
    if not count:
      raise UserError(f"The split {split!r} of {name} is empty; prepare it again.")
    labels, all_ids = np.empty(count, np.int32), np.arange(count)

    def encoded(ids: np.ndarray) -> Iterator[bytes]:
      for start in range(0, len(ids), _CHUNK):
        chunk_ids = ids[start : start + _CHUNK]
        try:
          chunk = records.__getitems__(chunk_ids.tolist())
        except Exception as error:  # array_record raises bare errors for missing or damaged files
          raise UserError(
            f"{name}/{split} cannot be read in {folder}; prepare it again."
          ) from error
        labels[chunk_ids] = [record[label_key] for record in chunk]
        yield from (record[image_key] for record in chunk)

    (first,) = encoded(all_ids[:1])
    name_of = f"Image {{}} of {name}/{split}".format
    size = image_decoding.header(io.BytesIO(first), name_of(0))[:2]
    images = EncodedImages(
      (count, *(size if image_size is None else (image_size, image_size)), channels),
      lambda ids: map(io.BytesIO, encoded(ids)),
      name_of,
      image_size,
    )
    if select_local is not None or not decode:
      for _ in encoded(all_ids):
        pass  # reads the labels first, because they are needed before the images
    read_images = images.reader(decode)
    return process_local.read_examples(labels, None, read_images, select_local)

  return Source(
    name, read("train", select_local), read(test_split), tuple(features[label_key].names)
  )


def _newest(folder: Path) -> Path:
  def version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else -1 for part in path.name.split("."))

  return max((info.parent for info in folder.glob("*/" + _INFO)), key=version)


def _keys(tfds: Any, name: str, features: Any) -> tuple[str, str]:
  """Returns the keys of the image and of the class label; there must be one of each."""
  keys = []
  for kind in (tfds.features.Image, tfds.features.ClassLabel):
    matches = [key for key, feature in features.items() if isinstance(feature, kind)]
    if len(matches) != 1:
      raise UserError(
        f"{name} has {len(matches)} features of type {kind.__name__}, but needs one; choose an"
        " image classification set."
      )
    keys += matches
  return keys[0], keys[1]
