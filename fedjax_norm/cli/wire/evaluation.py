"""Classifies a client's test images with its segments of the model and the server's."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fedjax_norm.cli.wire.build import check_messages, limit, print_status
from fedjax_norm.cli.wire.options import ClientFlags
from fedjax_norm.errors import LostError
from fedjax_norm.split.parties import Part
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import Task
from fedjax_norm.wire.client import training
from fedjax_norm.wire.client.hand_overs import HandOvers
from fedjax_norm.wire.client.queries import RunInfo, ask_turn, join
from fedjax_norm.wire.client.remote_steps import infer
from fedjax_norm.wire.protocol.caller import Caller
from fedjax_norm.wire.protocol.network import Network


class Session(NamedTuple):
  """What a client needs to join the run; ``call`` sends requests to the server."""

  config: ClientFlags
  task: Task
  network: Network
  run_info: RunInfo
  hand_overs: HandOvers
  call: Caller


def _batches(task: Task, size: int) -> Iterator[np.ndarray]:
  """Yields the preprocessed test images in batches."""
  images = task.source.test.images
  for begin in range(0, len(images), size):
    batch = images[begin : begin + size]
    yield np.asarray(task.eval_transform(batch, np.arange(begin, begin + len(batch)), None))


def compute_logits(session: Session, parts: tuple[Part, ...], step: int) -> np.ndarray:
  """Returns the logits [N, classes] of the test images, from weights trained until ``step``."""
  batches = _batches(session.task, session.network.batch_size)
  return infer(session.network, session.call, limit(session.config), parts, step, batches)


def evaluate(session: Session, parts: tuple[Part, ...], step: int) -> dict[str, float]:
  """Returns the test set's mean loss and top-1 accuracy, from weights trained until ``step``."""
  logits = compute_logits(session, parts, step).astype(np.float64)
  labels = session.task.source.test.labels
  shifted = logits - logits.max(-1, keepdims=True)
  losses = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]
  return {"loss": float(losses.mean()), "top1": float((logits.argmax(-1) == labels).mean())}


def predict(session: Session, folder: RunFolder) -> None:
  """Classifies the test images with the trained network and writes ``predictions.csv``.

  Raises:
    LostError: no client hands the trained weights over within --patience.
  """
  config, size = session.config, limit(session.config)
  check_messages(config, session.network, len(session.task.source.test.labels))
  join(session.call, session.hand_overs.announcement, None, 0, "")
  until, notified = time.monotonic() + config.patience, False
  info = ask_turn(session.call, size, waiting=False)
  while not (info.hand_over and info.readable and info.state == "done"):
    if time.monotonic() > until:
      raise LostError(
        "the network is not trained yet, or no client is running that could hand its weights over; "
        "start the client that trained last again with --linger, and then run this command again."
      )
    if not notified:
      print_status("waiting for the weights.")
    notified = True
    time.sleep(training.PAUSE)
    info = ask_turn(session.call, size, waiting=False)
  with training.keep_alive(session.call, config.patience):
    parts = session.hand_overs.obtain(info.hand_over)
    logits = compute_logits(session, parts, info.hand_over.step)
  labels, names = session.task.source.test.labels, session.task.source.class_names
  rows = [
    {"example": index, "class": names[label], "predicted": names[guess]}
    for index, (label, guess) in enumerate(zip(labels, logits.argmax(-1), strict=True))
  ]
  write_table(folder.path / "predictions.csv", rows)
  ask_turn(session.call, size, waiting=False, final=True)
  top1 = float((logits.argmax(-1) == labels).mean())
  print(f"{len(labels):,} test images, {top1:.2%} right; {folder.path / 'predictions.csv'}")
