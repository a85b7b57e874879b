"""Writes TensorBoard event files without a ``SummaryWriter``, its thread and its open file."""

import socket
import struct
import time
from pathlib import Path
from typing import Any

from fedjax_norm.training.storage.atomic_files import append
from fedjax_norm.training.storage.csv_rows import Row

# Marks the event files that this package writes and can delete when a run is resumed.
_SUFFIX = ".fedjax_norm"


def new_file(folder: Path) -> Path:
  """Creates an event file in a folder, which is created if missing, and returns its path.

  Raises:
    OSError: the folder or the file cannot be written.
  """
  folder.mkdir(exist_ok=True)
  # The number of files distinguishes two event files of the same second.
  number = sum(1 for _ in folder.iterdir())
  stamp = f"{int(time.time())}.{socket.gethostname()}.{number}"
  file = folder / f"events.out.tfevents.{stamp}{_SUFFIX}"
  append(file, _record(file_version="brain.Event:2"))
  return file


def write(file: Path, rows: list[Row]) -> None:
  """Appends an event with the numbers of each row, and waits until they are on the disk.

  ``round`` is TensorBoard's step, and the names of the other columns are its tags.

  Raises:
    OSError: the file cannot be written.
  """
  append(file, b"".join(map(_event, rows)))


def delete(folder: Path) -> None:
  """Deletes the files that :func:`new_file` made, and keeps all other files of the folder."""
  for file in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
    file.unlink()


def _event(row: Row) -> bytes:
  values = {name: v for name, v in row.items() if name != "round" and not isinstance(v, str)}
  summary = {"value": [{"tag": name, "simple_value": value} for name, value in values.items()]}
  return _record(step=row["round"], summary=summary)


def _record(**fields: Any) -> bytes:
  # Late, because tensorboardX imports PyTorch where it is installed, which takes seconds.
  from tensorboardX.proto.event_pb2 import Event
  from tensorboardX.record_writer import masked_crc32c

  data = Event(wall_time=time.time(), **fields).SerializeToString()
  length = struct.pack("<Q", len(data))
  return b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in (length, data))
