"""Copies the metrics of a run to Weights & Biases (W&B), if ``--wandb`` asks for it."""

import importlib.util
import os
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage import atomic_files
from fedjax_norm.training.storage.csv_rows import Row
from fedjax_norm.training.storage.run_folder import RunFolder, read_config

_STATE = "wandb.json"


def check_installed() -> None:
  """Raises a UserError if the package ``wandb`` is not installed."""
  spec = importlib.util.find_spec("wandb")
  if spec is None or spec.origin is None:  # a folder named wandb is no package
    raise UserError(
      "--wandb needs the package wandb, which this Python does not have; install it with: "
      "pip install wandb"
    )


class WandbLog:
  """The W&B run that belongs to a run folder; a context manager.

  ``wandb.json`` in the folder keeps the id of the W&B run and the last round that was sent to it,
  so that a resumed run continues the same W&B run and sends no row twice. After an error of W&B a
  note is printed and nothing more is sent; the next process that resumes the run sends the rest.
  """

  def __init__(self, folder: RunFolder, project: str, group: str | None = None):
    """Starts or continues the W&B run, and sends the rows that the folder already has.

    The environment variables of W&B apply, such as WANDB_MODE=offline. Its local files go to
    WANDB_DIR, by default to the run folder.

    Args:
      folder: the open folder of the run.
      project: project of the W&B run.
      group: name under which W&B shows this run together with those of other seeds.

    Raises:
      UserError: the user is not logged in to W&B.
    """
    self._file = folder.path / _STATE
    self._run: Any = None
    state = atomic_files.read_json(self._file) if self._file.exists() else {}
    if state.get("project") != project:
      state = {"project": project, "id": secrets.token_hex(4), "round": 0}
    self._state = state
    self._try(lambda: self._start(folder, group))
    self.add(folder.rows())

  def _start(self, folder: RunFolder, group: str | None) -> None:
    import wandb  # takes a second, and is an extra

    name = f"{group}/{folder.path.name}" if group else folder.path.name
    try:
      self._run = wandb.init(
        project=self._state["project"],
        id=self._state["id"],
        name=name,
        group=group,
        config=read_config(folder.path),
        dir=os.environ.get("WANDB_DIR") or str(folder.path),
        resume="allow",
        allow_val_change=True,  # of the number of rounds, if the run continues with more
        settings=wandb.Settings(console="off"),  # else W&B would replace stdout
      )
    except wandb.errors.UsageError as error:
      raise UserError(
        f"W&B refuses to start ({error}); run `wandb login`, set WANDB_MODE=offline, or drop "
        "--wandb."
      ) from error

  def add(self, rows: Sequence[Row]) -> None:
    """Sends those of the rows of ``metrics.csv`` that W&B does not have yet."""

    def send() -> None:
      for row in rows:
        if row["round"] > self._state["round"]:
          self._run.log(row, step=row["round"])
          self._state["round"] = row["round"]
      atomic_files.write_json(self._file, self._state)

    if self._run:
      self._try(send)

  def on_evaluation(self, round: int, row: Row, model: Any) -> None:
    """Sends a row; a callback of the training loop."""
    self.add([row])

  def summarize(self, summary: dict[str, Any]) -> None:
    """Sends the content of ``summary.json``."""
    if self._run:
      self._try(lambda: self._run.summary.update(summary))

  def __enter__(self) -> "WandbLog":
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    if self._run:
      self._try(lambda: self._run.finish(exit_code=0 if kind is None else 1))

  def _try(self, action: Callable[[], Any]) -> None:
    """Calls ``action``; after an error, prints a note and disconnects from W&B."""
    try:
      action()
    except UserError:
      raise
    except Exception as error:  # whatever W&B raises must not end the training
      self._run = None
      print(f"note: W&B failed ({error}), and the run goes on without it.", flush=True)
