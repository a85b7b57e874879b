"""A client's test images through its own part of the network and the server's."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fedjax_norm.cli.wire.build import check_messages, limit, say
from fedjax_norm.cli.wire.options import ClientFlags
from fedjax_norm.errors import LostError
from fedjax_norm.split.parties import Part
from fedjax_norm.training.storage.csv_rows import write_table
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import Task
from fedjax_norm.wire.client import client as alices
from fedjax_norm.wire.client.hand_overs import Keeper
from fedjax_norm.wire.client.queries import Described, ask, join
from fedjax_norm.wire.client.remote_steps import infer
from fedjax_norm.wire.protocol.network import Network
from fedjax_norm.wire.protocol.transport import Caller


class Joined(NamedTuple):
  """A client that is ready to join."""

  config: ClientFlags
  task: Task
  network: Network
  described: Described
  keeper: Keeper
  call: Caller


def test_batches(task: Task, size: int) -> Iterator[np.ndarray]:
  """The test images as the model takes them."""
  images = task.source.test.images
  for begin in range(0, len(images), size):
    some = images[begin : begin + size]
    yield np.asarray(task.eval_transform(some, np.arange(begin, begin + len(some)), None))


def logits_of(ready: Joined, own: tuple[Part, ...], step: int) -> np.ndarray:
  """[N, C] of the test images."""
  batches = test_batches(ready.task, ready.network.batch_size)
  return infer(ready.network, ready.call, limit(ready.config), own, step, batches)


def evaluate(ready: Joined, own: tuple[Part, ...], step: int) -> dict[str, float]:
  """Loss and accuracy on the test set."""
  logits = logits_of(ready, own, step).astype(np.float64)
  labels = ready.task.source.test.labels
  shifted = logits - logits.max(-1, keepdims=True)
  losses = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]
  return {"loss": float(losses.mean()), "top1": float((logits.argmax(-1) == labels).mean())}


def predict(ready: Joined, folder: RunFolder) -> None:
  """Classifies the test images; the weights are handed over as to a client."""
  config, size = ready.config, limit(ready.config)
  check_messages(config, ready.network, len(ready.task.source.test.labels))
  join(ready.call, ready.keeper.announcement, None, 0, "")
  until, told = time.monotonic() + config.patience, False
  asked = ask(ready.call, size, waiting=False)
  while not (asked.handed and asked.readable and asked.state == "done"):
    if time.monotonic() > until:
      raise LostError(
        "the network is not trained yet, or no client is there to hand its weights over; start the "
        "client that trained last again with --linger, and then this."
      )
    if not told:
      say("waiting for the weights.")
    told = True
    time.sleep(alices.PAUSE)
    asked = ask(ready.call, size, waiting=False)
  with alices.at_work(ready.call, config.patience):
    own = ready.keeper.obtain(asked.handed)
    logits = logits_of(ready, own, asked.handed.step)
  labels, names = ready.task.source.test.labels, ready.task.source.class_names
  rows = [
    {"example": index, "class": names[label], "predicted": names[guess]}
    for index, (label, guess) in enumerate(zip(labels, logits.argmax(-1), strict=True))
  ]
  write_table(folder.path / "predictions.csv", rows)
  ask(ready.call, size, waiting=False, final=True)
  top1 = float((logits.argmax(-1) == labels).mean())
  print(f"{len(labels):,} test images, {top1:.2%} right; {folder.path / 'predictions.csv'}")
