"""A client's progress on its disk: the last step, the bytes of its turns and the last scores."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import fields, frames, private_files

_FILE = "progress.json"


class Traffic(NamedTuple):
  """Bytes of completed turns' steps and hand-overs, counted alike by client and server.

  Attributes:
    sent: bytes to the server.
    received: bytes from the server.
  """

  sent: int = 0
  received: int = 0

  def plus(self, other: "Traffic") -> "Traffic":
    """Returns the sum."""
    return Traffic(self.sent + other.sent, self.received + other.received)

  def minus(self, other: "Traffic") -> "Traffic":
    """Returns the difference."""
    return Traffic(self.sent - other.sent, self.received - other.received)


NO_TRAFFIC = Traffic()


class Progress(NamedTuple):
  """Progress of a client.

  Attributes:
    reached: number of the greatest step among the hand-overs that it made or received.
    traffic: bytes of its turns.
    scores: round and test scores of its last turn, or None if that was not evaluated.
  """

  reached: int = 0
  traffic: Traffic = NO_TRAFFIC
  scores: Mapping[str, float] | None = None


def read(folder: Path) -> Progress:
  """Reads the progress in a client's folder."""
  path = folder / _FILE
  return _read(path) if path.exists() else Progress()


def unconfirmed(folder: Path) -> Progress | None:
  """Returns the progress written for a hand-over without an answer yet; None if there is none."""
  with contextlib.suppress(UserError, OSError):
    return _read(folder / f"{_FILE}.tmp")
  return None


def _read(path: Path) -> Progress:
  whole = fields.whole
  try:
    content = frames.parse_json(
      path.read_bytes(),
      reached=whole,
      traffic=fields.record(sent=whole, received=whole),
      scores=fields.optional(fields.mapping_of(fields.number)),
    )
  except frames.FrameError as error:
    raise UserError(
      f"{path} is damaged or of another version; restore it, use the version that wrote it, or "
      "pass another --workdir."
    ) from error
  return Progress(**{**content, "traffic": Traffic(**content["traffic"])})


@contextlib.contextmanager
def written(folder: Path, progress: Progress) -> Iterator[None]:
  """Writes the progress to the disk; it takes effect if the block ends without error."""
  content = {**progress._asdict(), "traffic": progress.traffic._asdict()}
  with private_files.replacing(folder / _FILE, json.dumps(content, allow_nan=False).encode()):
    yield
