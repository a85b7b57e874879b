"""Reads and writes the file of a client's progress."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import fields, frames, private_files

_FILE = "progress.json"


class Traffic(NamedTuple):
  """Bytes that a client exchanged with the server in steps and hand-overs.

  Attributes:
    sent: bytes to the server.
    received: bytes from the server.
  """

  sent: int = 0
  received: int = 0

  def plus(self, other: "Traffic") -> "Traffic":
    """Returns the bytes of both counts together."""
    return Traffic(self.sent + other.sent, self.received + other.received)

  def minus(self, other: "Traffic") -> "Traffic":
    """Returns the bytes since an earlier count."""
    return Traffic(self.sent - other.sent, self.received - other.received)


NO_TRAFFIC = Traffic()


class Progress(NamedTuple):
  """What a client has done and seen in a run.

  Attributes:
    reached: largest step number of the hand-overs that the client made or received.
    traffic: bytes of the client's completed turns.
    scores: round and test scores of the client's last turn, or None if it was not evaluated.
  """

  reached: int = 0
  traffic: Traffic = NO_TRAFFIC
  scores: Mapping[str, float] | None = None


def read(folder: Path) -> Progress:
  """Reads the progress from a client's folder; a new folder gives zeros."""
  path = folder / _FILE
  return _read(path) if path.exists() else Progress()


def unconfirmed(folder: Path) -> Progress | None:
  """Returns the progress stored with a hand-over that the server has not confirmed, or None."""
  with contextlib.suppress(UserError, OSError):
    return _read(folder / f"{_FILE}.tmp")
  return None


def _read(path: Path) -> Progress:
  traffic = fields.record(sent=fields.whole, received=fields.whole)
  scores, data = fields.optional(fields.mapping_of(fields.number)), path.read_bytes()
  try:
    content = frames.parse_json(data, reached=fields.whole, traffic=traffic, scores=scores)
  except frames.FrameError as error:
    raise UserError(
      f"{path} is damaged or of another version of this program; restore it, use the version that "
      "wrote it, or pass another --workdir."
    ) from error
  return Progress(**{**content, "traffic": Traffic(**content["traffic"])})


@contextlib.contextmanager
def written(folder: Path, progress: Progress) -> Iterator[None]:
  """Writes the progress to a temporary file, and renames it if the block ends without error."""
  content = {**progress._asdict(), "traffic": progress.traffic._asdict()}
  with private_files.replacing(folder / _FILE, json.dumps(content, allow_nan=False).encode()):
    yield
