"""Classifies images with the model of a finished split run (see ``experiments.split_predict``)."""

import dataclasses
from pathlib import Path

import numpy as np

from fedjax_norm.cli import app, train
from fedjax_norm.cli.config import Config, all_but
from fedjax_norm.cli.finished_run import SplitRun, check_images, load_split
from fedjax_norm.data.examples import Source
from fedjax_norm.errors import UserError
from fedjax_norm.options import option
from fedjax_norm.split.by_messages.inference import remote_outputs, send_client_weights
from fedjax_norm.split.by_messages.log import MessageLog
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.storage.lock import locked
from fedjax_norm.training.terminal.tables import human_bytes, summary_table

_PARTY = "third"  # name of the party in inference_messages.csv


@dataclasses.dataclass(frozen=True)
class PredictFlags(Config):
  """Options of ``experiments.split_predict``."""

  algorithm = "split_predict"
  hidden = all_but("data", "data_dir", "image_size", "eval_batch_size", "workdir",
                   "wait_for_workdir", "compilation_cache")  # fmt: skip

  data: str | None = option(  # type: ignore[assignment]
    None, "The data set whose test images are classified; by default the run's."
  )

  def check(self) -> None:
    """Refuses options of the data if the data is the run's."""
    for name in ("data_dir", "image_size"):
      if self.data is None and getattr(self, name) is not None:
        raise UserError(f"--{name} does nothing here: it needs --data; drop it or add that.")


def main(config: PredictFlags) -> None:
  """Classifies images and prints the accuracy and the bytes exchanged."""
  if config.workdir is None:
    raise UserError("there is no run; give --workdir=FOLDER of a run of experiments.split.")
  run = load_split(config.workdir)
  source = run.task.source if config.data is None else train.load(config)
  check_images(run, source.test.images.shape[1:], source.name)
  path = Path(config.workdir).expanduser()
  with locked(path, config.wait_for_workdir):
    _predict(config, run, source, path)


def _predict(config: PredictFlags, run: SplitRun, source: Source, path: Path) -> None:
  """Classifies the test images and writes the results to the run's folder."""
  log = MessageLog()
  hand_over = run.flags.hand_over or run.flags.default_hand_over
  send_client_weights(run.cut_model, _PARTY, hand_over, log.observe)
  weights = log.traffic(_PARTY)
  images = source.test.images
  outputs = remote_outputs(run.cut_model, images, config.eval_batch_size, log.observe, _PARTY)
  traffic, guesses = log.traffic(_PARTY), outputs.argmax(-1)
  names, labels = run.task.source.class_names, source.test.labels
  same_classes = source.class_names == names
  rows = [
    {
      "example": index,
      **({"class": names[labels[index]]} if same_classes else {}),
      "predicted": names[guess],
    }
    for index, guess in enumerate(guesses)
  ]
  write_table(path / "predictions.csv", rows)
  write_table(path / "inference_messages.csv", log.rows())
  accuracy = (
    f"{np.mean(guesses == labels):.2%}" if same_classes else "the classes are not the run's"
  )
  pairs = [
    ("images", f"{len(images):,} of {source.name}"),
    ("top-1", accuracy),
    ("weights", f"{human_bytes(weights.bytes_down)} received"),
    ("sent", human_bytes(traffic.bytes_up)),
    ("received", human_bytes(traffic.bytes_down - weights.bytes_down)),
    ("written", str(path / "predictions.csv")),
  ]
  print(summary_table("split_predict", pairs))


def launch() -> None:
  """Runs the binary on the command line's flags, and exits."""
  app.run(main, PredictFlags)
