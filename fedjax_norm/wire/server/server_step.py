"""Computes the server's half of a training step and of inference, on checked messages."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.local_training import Metrics
from fedjax_norm.split.messages import ACTIVATION, GRADIENT, LABELS, OUTPUT, padded, rows
from fedjax_norm.split.parties import Part, Tape
from fedjax_norm.typing import Batch, Key, PyTree
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.frames import Frame, FrameError
from fedjax_norm.wire.protocol.network import Network, StepPosition, all_finite, batched


class PendingStep(NamedTuple):
  """What the server keeps between the forward and the backward request of a step (U-shape).

  Attributes:
    tape: values that the forward pass saved for the backward pass.
    mask: [batch size] float32, 1 for an example and 0 for padding.
  """

  tape: Tape
  mask: np.ndarray


class RequestResult(NamedTuple):
  """The result of a request in a step.

  Attributes:
    part: state of the server's segment after the request.
    pending: set if the step is not complete without a backward request, else None.
    answer: the answer to the client.
    metrics: training metrics of the step; zeros in the U-shape, where only the client has labels.
  """

  part: Part
  pending: PendingStep | None
  answer: Frame
  metrics: Metrics


def forward(
  network: Network, part: Part, position: StepPosition, key: Key, rate: np.float32, frame: Frame
) -> RequestResult:
  """Answers activations: with outputs in the U-shape, otherwise with the gradient at the cut.

  Args:
    network: the cut network.
    part: state of the server's segment.
    position: the place of the step in the run.
    key: random key of the turn, from which dropout derives.
    rate: learning rate of the round.
    frame: activations, and labels except in the U-shape.

  Raises:
    FrameError: the frame has other tensors, numbers that are not finite, or impossible labels.
  """
  rules, labelled = network.rules, not network.rules.plan.u_shaped
  tensors, count = _read_examples(network, frame, labelled=labelled)
  mask = (np.arange(network.batch_size) < count).astype(np.float32)
  x, labels, on_device = tensors[ACTIVATION], tensors.get(LABELS), jnp.asarray(mask)
  step_key = jax.random.fold_in(key, position.local_step)
  party = rules.parties[network.server_index]
  y, tape = party.forward(part, x, labels, on_device, position.time, step_key)
  pending = PendingStep(tape, mask)
  if not labelled:
    answer = Frame(OUTPUT, frame.step, frames.tree_tensors(rows(y, count)))
    return RequestResult(part, pending, answer, Metrics.zeros())
  gradient, metrics = rules.loss_gradient(y, Batch(None, labels, on_device))
  return _update(network, part, pending, gradient, rate, frame.step)._replace(metrics=metrics)


def backward(
  network: Network, part: Part, pending: PendingStep, rate: np.float32, frame: Frame
) -> RequestResult:
  """Answers the gradient of the outputs with the gradient of the activations (U-shape).

  Raises ``FrameError`` if the gradient has another shape or numbers that are not finite.
  """
  shapes = batched(network.outputs[network.server_index], int(pending.mask.sum()))
  gradient = _check_finite(frames.read_tree(frame, GRADIENT, shapes))
  gradient = jax.tree.map(jnp.asarray, padded(gradient, network.batch_size))
  return _update(network, part, pending, gradient, rate, frame.step)


def infer(network: Network, part: Part, frame: Frame) -> Frame:
  """Answers activations with the server's outputs in evaluation mode."""
  tensors, count = _read_examples(network, frame, labelled=False)
  y = network.evaluate[network.server_index](part.variables, tensors[ACTIVATION])
  return Frame(OUTPUT, frame.step, frames.tree_tensors(rows(y, count)))


def _update(
  network: Network, part: Part, pending: PendingStep, gradient: PyTree, rate: np.float32, step: int
) -> RequestResult:
  party = network.rules.parties[network.server_index]
  count = jnp.asarray(pending.mask).sum()
  part, gradient = party.backward(part, pending.tape, gradient, count, rate)
  tensors = frames.tree_tensors(rows(gradient, int(pending.mask.sum())))
  return RequestResult(part, None, Frame(GRADIENT, step, tensors), Metrics.zeros())


def _read_examples(
  network: Network, frame: Frame, *, labelled: bool
) -> tuple[dict[str, PyTree], int]:
  """Returns a frame's tensors, padded to the batch size, and the number of examples in it."""
  first = next(iter(frame.tensors.values()), np.zeros(()))
  count = len(first) if first.ndim else 0
  if count == 0:
    raise FrameError("a message contains no examples.")
  if count > network.batch_size:
    raise FrameError(
      f"a message has {count} examples but a batch has {network.batch_size} at most."
    )
  expected = {ACTIVATION: batched(network.outputs[0], count)}
  if labelled:
    expected[LABELS] = batched(network.label, count)
  tensors = frames.read_tree(frame, ACTIVATION, expected)
  _check_finite(tensors[ACTIVATION])
  labels = tensors.get(LABELS, np.zeros(0))
  if ((labels < 0) | (labels >= network.num_classes)).any():
    raise FrameError(f"a label is none of the {network.num_classes} classes.")
  return jax.tree.map(jnp.asarray, padded(tensors, network.batch_size)), count


def _check_finite(tree: PyTree) -> PyTree:
  """Returns tensors if all numbers are finite; others would spoil the server's weights."""
  if not all_finite(tree):
    raise FrameError(
      "a message contains numbers that are not finite, so its sender's training has diverged; "
      "lower --lr at the server."
    )
  return tree
