"""Writes data for use from the disk: ``python -m experiments.convert --data=folder:DIR --to=DIR``.

Decodes the images of any data source, such as ``folder:DIR`` or ``csv:FILE``, into the arrays that
``--data=npy:DIR`` reads. Such images are mapped into memory: a run with ``--data_on=host`` reads
from the disk what its next rounds need, so the data may be larger than the memory. Labels, names,
clients and the split into training and test images are those of the source, and runs give the same
results. Image files and TFDS data are converted in little memory.

A conversion that was interrupted goes on when the same command runs again. Until it is complete,
its files are in the folder DIR.partial.
"""

import contextlib
import dataclasses
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from filelock import FileLock, Timeout

from fedjax_norm.cli import conversion_record
from fedjax_norm.cli.app import run_plain
from fedjax_norm.cli.conversion_record import FILES, IMAGES, RECORD, Record
from fedjax_norm.data.encoded_images import EncodedImages, block_size
from fedjax_norm.data.examples import Source
from fedjax_norm.data.sources import npy
from fedjax_norm.data.sources.arrays import REQUIRED
from fedjax_norm.data.sources.config import DataConfig, from_config
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import TASKS
from fedjax_norm.options import option
from fedjax_norm.training.storage.atomic_files import filename_in_errors, write_atomic
from fedjax_norm.training.terminal.progress import new_bar

_LOCK = ".lock"
_BAR = "{desc} {n_fmt}/{total_fmt} |{bar:20}| {elapsed}<{remaining}, {rate_fmt}"


@dataclasses.dataclass(frozen=True)
class ConvertFlags(DataConfig):
  """The options of ``experiments.convert``."""

  group = "conversion"
  hidden = ("train_share", "first_classes")

  to: str | None = option(None, "Folder for the arrays; a new one, or that of the same conversion.")
  task: str = option(
    "classification",
    "What the data is for: with regression and segmentation also its targets are written, and with "
    "verification its test classes may differ from its training classes.",
    choices=(*TASKS, "verification"),
  )
  progress: bool = option(True, "Whether to show the progress on one line of stderr.")


def run(config: ConvertFlags) -> None:
  """Converts the data, or the rest of it if an earlier process was interrupted.

  Raises:
    UserError: the data cannot be read, or the folder holds anything else.
  """
  if not config.to:
    raise UserError("no folder for the arrays is given; pass --to=DIR.")
  if config.data.startswith("npy:"):
    raise UserError(f"--data={config.data} has this form already; train with it.")
  folder = Path(config.to).expanduser().resolve()
  prepared = os.path.join(config.data_dir, config.data) if config.data_dir else ""
  for source in (config.data.partition(":")[2], prepared):
    if os.path.isdir(source) and folder.is_relative_to(Path(source).resolve()):
      raise UserError(f"{folder} is in the data's folder {source}; choose another folder as --to.")
  record = conversion_record.of(config, config.task)
  if not _is_complete(folder, record):
    _convert(config, folder, record)
  task = "" if config.task == "classification" else f" --task={config.task}"
  print(f"train with --data=npy:{folder}{task}")


def _is_complete(folder: Path, record: Record) -> bool:
  """Returns whether the folder has this conversion, and says so; not if it is new or empty.

  Raises:
    UserError: the folder holds anything else.
  """
  if (folder / RECORD).is_file():
    old = conversion_record.read(folder)
    conversion_record.check_options(folder, old, record)
    conversion_record.check_files(folder, old, record, {})
    if missing := [name for name in REQUIRED if not (folder / f"{name}.npy").is_file()]:
      raise UserError(f"{folder} has lost {missing[0]}.npy; remove this folder to convert again.")
    print(f"{folder} is complete")
    return True
  if folder.is_file():
    raise UserError(f"{folder} is a file; choose a new folder as --to.")
  if folder.is_dir() and any(folder.iterdir()):
    raise UserError(f"{folder} holds other files; choose a new folder as --to.")
  return False


def _convert(config: ConvertFlags, folder: Path, record: Record) -> None:
  """Collects the files in a folder beside ``folder``, which it becomes when it is complete."""
  source = from_config(config, config.task, decode=False)
  if source.test_names is not None and config.task != "verification":
    raise UserError(
      f"the test classes of {config.data} are not its training classes; pass --task=verification."
    )
  partial = folder.with_name(folder.name + npy.PARTIAL)
  partial.mkdir(parents=True, exist_ok=True)
  try:
    with FileLock(partial / _LOCK, blocking=False), _leaves_no_empty(partial):
      if _is_complete(folder, record):  # by another process, since the first look
        return
      for note in source.notes:
        print(f"note: {note}")
      _write(partial, source, record, config.progress)
      mode = stat.S_IMODE(folder.stat().st_mode) if folder.is_dir() else None
      with filename_in_errors(folder):
        os.replace(partial, folder)
      (folder / _LOCK).unlink(missing_ok=True)
      if mode is not None:
        folder.chmod(mode)
  except Timeout as error:
    raise UserError(f"another process writes to {partial}; wait until it ends.") from error
  train, test = source.train.images.shape, source.test.images.shape
  shape = "x".join(map(str, train[1:]))
  print(f"{folder}: {train[0]:,} training and {test[0]:,} test images of {shape}")


@contextlib.contextmanager
def _leaves_no_empty(folder: Path) -> Iterator[None]:
  """Removes the folder after the block if it has nothing but the lock."""
  try:
    yield
  finally:
    if folder.is_dir() and os.listdir(folder) == [_LOCK]:
      (folder / _LOCK).unlink()
      folder.rmdir()


def _write(folder: Path, source: Source, record: Record, progress: bool) -> None:
  """Writes all files; the images that an interrupted process has written are kept.

  Raises:
    UserError: these images are of other options, or their files changed since.
  """
  images = dict(zip(IMAGES, (source.train.images, source.test.images), strict=True))
  begun = (folder / RECORD).is_file()
  if not begun and {path.suffix for path in folder.iterdir()} & {".npy"}:
    raise UserError(f"{folder} holds other arrays; choose another folder as --to.")
  old = conversion_record.read(folder) if begun else record
  conversion_record.check_options(folder, old, record)
  done = {name: _written(folder / f"{name}.npy", array) for name, array in images.items()}
  conversion_record.check_files(folder, old, record, done)
  buffer = io.BytesIO()
  np.savez(buffer, allow_pickle=False, **record)
  write_atomic(folder / RECORD, buffer.getvalue())
  for name, array in _small_arrays(source).items():
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomic(folder / f"{name}.npy", buffer.getvalue())
  total, kept = sum(map(len, images.values())), sum(done.values())
  if any(not np.array_equal(old[name], record[name]) for name in FILES):
    what = f"{kept:,} unchanged images are kept" if kept else "the conversion starts again"
    print(f"note: the data changed; {what}")
  with new_bar(total, kept, progress, _BAR, desc="image", unit="image") as bar:
    try:
      for name, array in images.items():
        _append(folder / f"{name}.npy", array, done[name], bar)
    except (OSError, KeyboardInterrupt) as error:
      # A block may have been written in part.
      bar.n = sum(_written(folder / f"{name}.npy", array) for name, array in images.items())
      error.add_note(
        f"{bar.n:,} of {total:,} images are converted, and the same command goes on from there"
      )
      raise


def _small_arrays(source: Source) -> dict[str, np.ndarray]:
  """Returns the arrays except the images, by the names of ``arrays.REQUIRED`` and ``OPTIONAL``."""
  found: dict[str, Any] = {
    f"{name}_names": getattr(source, f"{name}_names")
    for name in ("class", "client", "test", "target")
  }
  for split, examples in (("train", source.train), ("test", source.test)):
    found |= {f"y_{split}": examples.labels, f"target_{split}": examples.targets}
    if source.client_names is not None and examples.clients is not None:
      # An unknown client is -1 in memory, and in a file a number without training examples.
      unknown = len(source.client_names)
      found[f"client_{split}"] = np.where(examples.clients < 0, unknown, examples.clients)
  return {name: np.asarray(array) for name, array in found.items() if array is not None}


def _header(images: np.ndarray | EncodedImages) -> bytes:
  buffer = io.BytesIO()
  descr = np.lib.format.dtype_to_descr(images.dtype)
  np.lib.format.write_array_header_1_0(
    buffer, {"descr": descr, "fortran_order": False, "shape": images.shape}
  )
  return buffer.getvalue()


def _image_bytes(images: np.ndarray | EncodedImages) -> int:
  return int(np.prod(images.shape[1:])) * images.dtype.itemsize


def _written(path: Path, images: np.ndarray | EncodedImages) -> int:
  """Returns how many images of the array a file has; a half-written one does not count.

  The file may be of more or fewer images: NumPy leaves room for any number in its header.

  Raises:
    UserError: the file has images of another shape or type.
  """
  size = len(_header(images))
  if not path.is_file() or path.stat().st_size < size:
    return 0
  try:
    with open(path, "rb") as file:
      np.lib.format.read_magic(file)
      shape, _, dtype = np.lib.format.read_array_header_1_0(file)
      same = (shape[1:], dtype, file.tell()) == (images.shape[1:], images.dtype, size)
  except ValueError:
    same = False
  if not same:
    raise conversion_record.changed(path.parent)
  return (path.stat().st_size - size) // _image_bytes(images)


def _append(path: Path, images: np.ndarray | EncodedImages, done: int, bar: tqdm.tqdm) -> None:
  """Writes the images after the first ``done`` ones, a block at a time.

  Unlike writing to a memory-mapped file, a full disk is then an error and does not end the process.
  """
  header = _header(images)
  with filename_in_errors(path), open(path, "r+b" if path.exists() else "w+b") as file:
    file.write(header)
    file.seek(len(header) + done * _image_bytes(images))
    file.truncate()
    for start in range(done, len(images), size := block_size(images)):
      block = images[start : start + size]
      file.write(np.ascontiguousarray(block).data)
      file.flush()
      bar.update(len(block))
    os.fsync(file.fileno())


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  run_plain(run, ConvertFlags, __doc__)
