"""Inference by somebody who took no part in training: ``python -m experiments.split_predict``.

A third party that holds no training data gets the clients' part of the model of a finished run of
``experiments.split`` (``--workdir``), sends the activations of its images to the server, and has
the outputs back (paper 003, sec. 3). ``predictions.csv`` and ``inference_messages.csv`` go to the
run's folder.
"""

import dataclasses
from pathlib import Path

import numpy as np

from fedjax_norm.cli import app, train
from fedjax_norm.cli.config import Config, all_but
from fedjax_norm.cli.finished_run import SplitRun, check_images, load_split
from fedjax_norm.data.examples import Source
from fedjax_norm.errors import UserError
from fedjax_norm.options import option
from fedjax_norm.split.by_messages.inference import fetch, outputs_of
from fedjax_norm.split.by_messages.log import MessageLog
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.storage.lock import locked
from fedjax_norm.training.terminal.tables import human_bytes, summary_table

_WHO = "third"


@dataclasses.dataclass(frozen=True)
class PredictFlags(Config):
  """Options of inference."""

  algorithm = "split_predict"
  hidden = all_but("data", "data_dir", "image_size", "eval_batch_size", "workdir",
                   "wait_for_workdir", "compilation_cache")  # fmt: skip

  data: str | None = option(  # type: ignore[assignment]
    None,
    "The data whose test images are classified, as of experiments.split; the run's by default.",
  )

  def check(self) -> None:
    """Refuses what says how data is read where it is the run's."""
    for name in ("data_dir", "image_size"):
      if self.data is None and getattr(self, name) is not None:
        raise UserError(f"--{name} does nothing here: it needs --data; drop it or add that.")


def main(config: PredictFlags) -> None:
  """Classifies, and tells how well and for how many bytes."""
  if config.workdir is None:
    raise UserError("there is no model without a run; give --workdir=FOLDER of experiments.split.")
  run = load_split(config.workdir)
  source = run.task.source if config.data is None else train.load(config)
  check_images(run, source.test.images.shape[1:], source.name)
  path = Path(config.workdir).expanduser()
  with locked(path, config.wait_for_workdir):
    _predict(config, run, source, path)


def _predict(config: PredictFlags, run: SplitRun, source: Source, path: Path) -> None:
  """Classifies the test images, and writes what came out to the run's folder, which is locked."""
  log = MessageLog()
  hand_over = run.flags.hand_over or run.flags.hand_over_by_default
  fetch(run.served, _WHO, hand_over, log.observe)
  weights = log.traffic(_WHO)
  images = source.test.images
  outputs = outputs_of(run.served, images, config.eval_batch_size, log.observe, _WHO)
  traffic, guesses = log.traffic(_WHO), outputs.argmax(-1)
  names, labels = run.task.source.class_names, source.test.labels
  known = source.class_names == names
  rows = [
    {
      "example": index,
      **({"class": names[labels[index]]} if known else {}),
      "predicted": names[guess],
    }
    for index, guess in enumerate(guesses)
  ]
  write_table(path / "predictions.csv", rows)
  write_table(path / "inference_messages.csv", log.rows())
  right = f"{np.mean(guesses == labels):.2%}" if known else "the classes are not the run's"
  pairs = [
    ("images", f"{len(images):,} of {source.name}"),
    ("top-1", right),
    ("weights", f"{human_bytes(weights.bytes_down)} received"),
    ("sent", human_bytes(traffic.bytes_up)),
    ("received", human_bytes(traffic.bytes_down - weights.bytes_down)),
    ("written", str(path / "predictions.csv")),
  ]
  print(summary_table("split_predict", pairs))


def launch() -> None:
  """Runs the binary on the command line's flags, and exits."""
  app.run(main, PredictFlags)
