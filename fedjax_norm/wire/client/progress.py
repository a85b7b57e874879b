"""How far a client is, kept on its disk: its last step, the bytes of its turns, the last scores."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fedjax_norm.errors import UserError
from fedjax_norm.wire.protocol import fields, frames, private_files

_FILE = "progress.json"


class Traffic(NamedTuple):
  """Bytes of completed turns' steps and hand-overs, as the client and the server both count them.

  Attributes:
    sent: to the server.
    received: from the server.
  """

  sent: int = 0
  received: int = 0

  def plus(self, other: "Traffic") -> "Traffic":
    """The sum of two."""
    return Traffic(self.sent + other.sent, self.received + other.received)

  def minus(self, other: "Traffic") -> "Traffic":
    """What came after another."""
    return Traffic(self.sent - other.sent, self.received - other.received)


NO_TRAFFIC = Traffic()


class Progress(NamedTuple):
  """How far a client is.

  Attributes:
    reached: the greatest step up to which it has handed over or been handed.
    traffic: of its turns.
    scores: the round and the test scores of its last turn; None if that was not evaluated.
  """

  reached: int = 0
  traffic: Traffic = NO_TRAFFIC
  scores: Mapping[str, float] | None = None


def read(folder: Path) -> Progress:
  """Reads what a client's folder keeps.

  Args:
    folder: of the client.

  Raises:
    UserError: the file is damaged or of another version.
  """
  path = folder / _FILE
  return _read(path) if path.exists() else Progress()


def unconfirmed(folder: Path) -> Progress | None:
  """What was written for a hand-over whose answer has not come; None if nothing reads as such."""
  with contextlib.suppress(UserError, OSError):
    return _read(folder / f"{_FILE}.tmp")
  return None


def _read(path: Path) -> Progress:
  whole = fields.whole
  try:
    content = frames.parse(
      path.read_bytes(),
      reached=whole,
      traffic=fields.record(sent=whole, received=whole),
      scores=fields.optional(fields.mapping(fields.number)),
    )
  except frames.FrameError as error:
    raise UserError(
      f"{path} is damaged or of another version; restore it, go on with the version that wrote it, "
      "or pass another --workdir."
    ) from error
  return Progress(**{**content, "traffic": Traffic(**content["traffic"])})


@contextlib.contextmanager
def written(folder: Path, progress: Progress) -> Iterator[None]:
  """Writes a client's progress, which counts when the block has ended well.

  Args:
    folder: of the client.
    progress: how far it is after the block.
  """
  content = {**progress._asdict(), "traffic": progress.traffic._asdict()}
  with private_files.replacing(folder / _FILE, json.dumps(content, allow_nan=False).encode()):
    yield
