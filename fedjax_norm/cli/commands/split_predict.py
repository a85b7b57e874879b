"""Split inference by a third party: ``python -m experiments.split_predict --workdir=runs/NAME``.

A third party receives the clients' part of the final model of a run of ``experiments.split``, sends
the activations of test images to the server, and receives the model's outputs (paper 003, sec. 3).
It writes ``predictions.csv`` and ``inference_messages.csv`` to the run's folder.
"""

import dataclasses
from pathlib import Path

import numpy as np

from fedjax_norm.cli import app, train
from fedjax_norm.cli.config import Config, all_but
from fedjax_norm.cli.finished_run import check_images, load_split
from fedjax_norm.errors import UserError
from fedjax_norm.options import option
from fedjax_norm.split.by_messages.inference import remote_outputs, send_client_weights
from fedjax_norm.split.by_messages.log import MessageLog
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.storage.lock import locked
from fedjax_norm.training.terminal.tables import human_bytes, summary_table

_PARTY = "third"  # name of the party with the images in inference_messages.csv


@dataclasses.dataclass(frozen=True)
class PredictFlags(Config):
  """Options of ``experiments.split_predict``."""

  algorithm = "split_predict"
  hidden = all_but("data", "data_dir", "image_size", "first_classes", "eval_batch_size",
                   "workdir", "wait_for_workdir", "compilation_cache")  # fmt: skip

  data: str | None = option(  # type: ignore[assignment]
    None, "The data set that provides the test images; by default that of the run in --workdir."
  )

  def check(self) -> None:
    """Raises UserError for options that change --data, if --data is not given."""
    for name in ("data_dir", "image_size", "first_classes"):
      if self.data is None and getattr(self, name) is not None:
        raise UserError(
          f"--{name} does nothing here: it needs --data; drop --{name} or add --data."
        )


def main(config: PredictFlags) -> None:
  """Classifies test images, writes the predictions, and prints the accuracy and bytes exchanged."""
  if config.workdir is None:
    raise UserError("there is no run; give --workdir, the folder of a run of experiments.split.")
  run = load_split(config.workdir)
  source = run.task.source if config.data is None else train.load(config)
  check_images(run, source.test.images.shape[1:], source.name)
  path = Path(config.workdir).expanduser()
  with locked(path, config.wait_for_workdir):
    log = MessageLog()
    hand_over = run.flags.hand_over or run.flags.default_hand_over
    send_client_weights(run.cut_model, _PARTY, hand_over, log.observe)
    weights = log.traffic(_PARTY)
    images, labels = source.test.images, source.test.labels
    outputs = remote_outputs(run.cut_model, images, config.eval_batch_size, log.observe, _PARTY)
    traffic, guesses, names = log.traffic(_PARTY), outputs.argmax(-1), run.task.source.class_names
    same_classes = source.class_names == names
    rows = []
    for index, guess in enumerate(guesses):
      actual = {"class": names[labels[index]]} if same_classes else {}
      rows.append({"example": index, **actual, "predicted": names[guess]})
    write_table(path / "predictions.csv", rows)
    write_table(path / "inference_messages.csv", log.rows())
    right = np.mean(guesses == labels)
    top1 = f"{right:.2%}" if same_classes else "unknown, as the classes are not the run's"
    pairs = [
      ("images", f"{len(images):,} of {source.name}"),
      ("top-1", top1),
      ("weights", f"{human_bytes(weights.bytes_down)} received"),
      ("sent", human_bytes(traffic.bytes_up)),
      ("received", human_bytes(traffic.bytes_down - weights.bytes_down)),
      ("written", str(path / "predictions.csv")),
    ]
    print(summary_table("split_predict", pairs))


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(main, PredictFlags, __doc__)
