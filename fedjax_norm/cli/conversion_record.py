"""What a conversion was made of: its options and files (see ``experiments.convert``)."""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedjax_norm.data.sources import registry as sources
from fedjax_norm.data.sources.config import DataConfig
from fedjax_norm.errors import UserError

RECORD = "conversion.npz"
"""The options of a conversion, and a stamp of each file that it reads (``npy:`` ignores it)."""
IMAGES = ("x_train", "x_test")
FILES = ("data", *IMAGES)

Record = Mapping[str, np.ndarray]


def of(config: DataConfig, task: str) -> dict[str, np.ndarray]:
  """Returns the options that the arrays depend on, and for each file path, size and time."""
  kind, _, argument = config.data.partition(":")
  names = ("image_size", "region", "min_region_size")
  given = {**{name: getattr(config, name) for name in names}, "task": task}
  data = f"{kind}:{os.path.abspath(argument)}" if os.path.exists(argument) else config.data
  data_dir = config.data_dir and os.path.abspath(config.data_dir)
  options = json.dumps({"data": data, "data_dir": data_dir, **given})
  *splits, masks = sources.file_paths(
    config.data, region=config.region, min_region_size=config.min_region_size
  )
  prepared = sorted(map(str, Path(data_dir, config.data).rglob("*"))) if data_dir else []
  files = {"data": [argument, *prepared, *masks], **dict(zip(IMAGES, splits, strict=True))}
  return {"options": np.asarray(options), **{name: _stamps(paths) for name, paths in files.items()}}


def _stamps(paths: list[str]) -> np.ndarray:
  """Returns a row for each path that is a file, [n, 3]: its checksum, size and time of change."""
  found = ((path, os.stat(path)) for path in paths if os.path.isfile(path))
  rows = [
    (zlib.crc32(os.fsencode(os.path.abspath(path))), stat.st_size, stat.st_mtime_ns)
    for path, stat in found
  ]
  return np.asarray(rows, np.int64).reshape(-1, 3)


def read(folder: Path) -> dict[str, np.ndarray]:
  """Returns the record of a folder; raises UserError if it is damaged."""
  try:
    with np.load(folder / RECORD) as record:
      return {name: record[name] for name in ("options", *FILES)}
  except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(
      f"{folder / RECORD} is not of a conversion, or is damaged; choose another --to."
    ) from error


def check_options(folder: Path, old: Record, new: Record) -> None:
  """Raises UserError if the options differ."""
  if str(old["options"]) != str(new["options"]):
    raise UserError(
      f"{folder} is of a conversion with other options, {old['options']}; choose another --to."
    )


def check_files(folder: Path, old: Record, new: Record, done: Mapping[str, int]) -> None:
  """Raises UserError if one of the files changed; of images, if one of the first ``done`` did."""
  for name in FILES:
    first = slice(done.get(name))
    if not np.array_equal(old[name][first], new[name][first]):
      raise changed(folder)


def changed(folder: Path) -> UserError:
  """Returns the error of a folder whose data changed."""
  return UserError(
    f"the data changed since it was converted to {folder}; remove this folder or choose another"
    " --to."
  )
