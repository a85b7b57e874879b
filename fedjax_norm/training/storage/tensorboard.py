"""Writes TensorBoard event files without a ``SummaryWriter``, its thread and its open file."""

import socket
import struct
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

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
  append(file, _record(Event(wall_time=time.time(), file_version="brain.Event:2")))
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
  values = [
    Summary.Value(tag=name, simple_value=value)
    for name, value in row.items()
    if name != "round" and not isinstance(value, str)
  ]
  return _record(Event(wall_time=time.time(), step=row["round"], summary=Summary(value=values)))


def _record(event: Event) -> bytes:
  data = event.SerializeToString()
  length = struct.pack("<Q", len(data))
  return b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in (length, data))
