"""One step of split training: who computes what, and what is sent between (Alg. 1 and 3)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from fedjax_norm.local import Metrics
from fedjax_norm.split.autoencoder import Autoencoder
from fedjax_norm.split.messages import ACTIVATION, GRADIENT, LABELS
from fedjax_norm.split.parties import Part, Party
from fedjax_norm.split.plan import ALICE, Plan
from fedjax_norm.typing import Array, Batch, Key, PyTree

Send = Callable[[str, int, int, PyTree, Array], PyTree]
"""(kind, the sender's segment, the receiver's, tensors, how many of their rows are examples) -> the
tensors as they arrive."""


class Stepped(NamedTuple):
  """What a step leaves.

  Attributes:
    parts: of the segments, and of the decoder if there is one.
    metrics: of the labelled examples.
    examples: how many there were, int32.
    exchanged: how many crossed the cut, int32.
    reconstruction: the autoencoder's mean loss; 0 without one.
  """

  parts: tuple[Part, ...]
  metrics: Metrics
  examples: Array
  exchanged: Array
  reconstruction: Array


def step(
  plan: Plan,
  parties: Sequence[Party],
  loss_gradient: Callable[[PyTree, Batch], tuple[PyTree, Metrics]],
  autoencoder: Autoencoder | None,
  send: Send,
  parts: Sequence[Part],
  batch: Batch,
  time: Array,
  key: Key,
  rate: Array,
) -> Stepped:
  """Takes one step on one minibatch of Alice's.

  X <- F_a(data), sent with the labels to Bob, who returns the gradient of X. With more segments
  each passes its output on, and the gradient comes back the same way; relays pass the labels on
  unread, and in the U-shape they stay with Alice.

  Args:
    plan: the segments.
    parties: their computations, traced, or each compiled by itself.
    loss_gradient: (outputs, batch) -> (G', metrics).
    autoencoder: of Alg. 3.
    send: what carries messages.
    parts: what the parties hold.
    batch: Alice's.
    time: what norms are told.
    key: dropout derives from it.
    rate: the learning rate.
  """
  parts, last = list(parts), len(plan.segments) - 1
  everything, x, tapes = batch, batch.images, []
  examples = exchanged = batch.mask.sum(dtype=jnp.int32)
  reconstruction = jnp.float32(0)
  for index, (segment, party) in enumerate(zip(plan.segments, parties, strict=True)):
    if index:
      x = send(ACTIVATION, index - 1, index, x, exchanged)
      if not plan.u_shaped:
        labels = send(LABELS, index - 1, index, batch.labels, exchanged)
        batch = batch._replace(labels=labels)
    told = batch.labels if index == last or segment.owner == ALICE else None
    x, tape = party.forward(parts[index], x, told, batch.mask, time, key)
    tapes.append(tape)
    if index == 0 and autoencoder:
      parts[-1], own, reconstruction = autoencoder.decode(
        parts[-1], x, batch.images, batch.mask, rate
      )
      places, x, batch = autoencoder.choose(x, batch)
      exchanged = batch.mask.sum(dtype=jnp.int32)

  gradient, metrics = loss_gradient(x, batch)

  for index in reversed(range(last + 1)):
    if index == 0 and autoencoder:
      gradient = autoencoder.combine(gradient, places, batch.mask, own)
    count = (everything if index == 0 else batch).mask.sum()
    parts[index], gradient = parties[index].backward(
      parts[index], tapes[index], gradient, count, rate
    )
    if index:
      gradient = send(GRADIENT, index, index - 1, gradient, exchanged)
  return Stepped(tuple(parts), metrics, examples, exchanged, reconstruction)


def carry(kind: str, sender: int, receiver: int, tensors: PyTree, count: Array) -> PyTree:
  """Carries messages within one program: nothing happens to them."""
  return tensors
