"""Reads what W&B writes offline: LevelDB's log format, with a protobuf message per record."""

import struct
from pathlib import Path
from typing import Any

_HEADER, _BLOCK = 7, 2**15


def records(folder: Path) -> list[Any]:
  """Returns the records of all offline runs under a folder, in the order of their starts."""
  from wandb.proto.wandb_internal_pb2 import Record

  return [
    Record.FromString(message)
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    for message in _messages(file.read_bytes())
  ]


def _messages(data: bytes) -> list[bytes]:
  messages, position, whole = [], _HEADER, b""  # the file's own header is as long as a record's
  while position + _HEADER < len(data):
    if _BLOCK - position % _BLOCK < _HEADER:  # too short for a record: padding
      position += _BLOCK - position % _BLOCK
      continue
    _, length, kind = struct.unpack_from("<IHB", data, position)
    whole += data[position + _HEADER : position + _HEADER + length]
    position += _HEADER + length
    if kind in (1, 4):  # a full record, or the last part of one
      messages.append(whole)
      whole = b""
  return messages
