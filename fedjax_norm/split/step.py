"""One step of split training: its computations and messages (paper 003, Alg. 1 and 3)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from fedjax_norm.local_training import Metrics
from fedjax_norm.split.autoencoder import Autoencoder
from fedjax_norm.split.messages import ACTIVATION, GRADIENT, LABELS
from fedjax_norm.split.parties import Part, Party
from fedjax_norm.split.plan import ALICE, Plan
from fedjax_norm.typing import Array, Batch, Key, PyTree

Send = Callable[[str, int, int, PyTree, Array], PyTree]
"""(kind of message, index of the sending segment, of the receiving segment, tensors, number of rows
without padding) -> the tensors as the receiver gets them."""


class StepResult(NamedTuple):
  """The result of a step.

  Attributes:
    parts: new training states of all segments, and of the decoder if there is one.
    metrics: metrics of the labelled examples.
    examples: number of examples in the batch, int32.
    exchanged: number of examples that crossed the cut, int32.
    reconstruction: mean loss of the autoencoder; 0 without an autoencoder.
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
) -> StepResult:
  """Takes one step on one minibatch of a client.

  The client computes X <- F_a(data) and sends X and the labels to the server, which returns the
  gradient of X. With relays or a tail, each segment sends its output to the next one, and gradients
  return the same way. Relays forward labels unread; in the U-shape labels stay with the client.

  Args:
    plan: the segments of the model and the party of each segment.
    parties: training functions of the segments.
    loss_gradient: (outputs, batch) -> (gradient G' of the mean loss, sums of the metrics).
    autoencoder: functions of the clients' autoencoder (Alg. 3), or None.
    send: delivers the messages.
    parts: training states of all segments, and of the decoder if there is one.
    batch: the client's minibatch.
    time: rounds so far, a fraction within a round, for norms that change during training.
    key: random key of dropout.
    rate: learning rate.
  """
  parts, last = list(parts), len(plan.segments) - 1
  whole_batch, x, tapes = batch, batch.images, []
  examples = exchanged = batch.mask.sum(dtype=jnp.int32)
  reconstruction = jnp.float32(0)
  for index, (segment, party) in enumerate(zip(plan.segments, parties, strict=True)):
    if index:
      x = send(ACTIVATION, index - 1, index, x, exchanged)
      if not plan.u_shaped:
        labels = send(LABELS, index - 1, index, batch.labels, exchanged)
        batch = batch._replace(labels=labels)
    visible_labels = batch.labels if index == last or segment.owner == ALICE else None
    x, tape = party.forward(parts[index], x, visible_labels, batch.mask, time, key)
    tapes.append(tape)
    if index == 0 and autoencoder:
      parts[-1], decoder_gradient, reconstruction = autoencoder.decode(
        parts[-1], x, batch.images, batch.mask, rate
      )
      order, x, batch = autoencoder.choose(x, batch)
      exchanged = batch.mask.sum(dtype=jnp.int32)

  gradient, metrics = loss_gradient(x, batch)

  for index in reversed(range(last + 1)):
    if index == 0 and autoencoder:
      gradient = autoencoder.combine(gradient, order, batch.mask, decoder_gradient)
    count = (whole_batch if index == 0 else batch).mask.sum()
    parts[index], gradient = parties[index].backward(
      parts[index], tapes[index], gradient, count, rate
    )
    if index:
      gradient = send(GRADIENT, index, index - 1, gradient, exchanged)
  return StepResult(tuple(parts), metrics, examples, exchanged, reconstruction)


def deliver(kind: str, sender: int, receiver: int, tensors: PyTree, count: Array) -> PyTree:
  """Returns the tensors unchanged: the ``Send`` of parties in one compiled program."""
  return tensors
