"""The server's half of a training step, inference, and the checks of what clients send."""

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
  """State between the forward and the backward request of a step in the U-shape.

  Attributes:
    tape: the server's residuals for the backward pass.
    mask: [batch size] float32, 1 for a real example.
  """

  tape: Tape
  mask: np.ndarray


class RequestResult(NamedTuple):
  """Result of a request.

  Attributes:
    part: the server's part after the request.
    pending: state of a step that waits for its backward request, or None.
    answer: answer to the request.
    metrics: metrics of the step's examples; zeros if the client computes them.
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
    part: the server's part.
    position: position of the step in the run.
    key: dropout key of the turn.
    rate: learning rate of the round.
    frame: activations, and labels except in the U-shape.

  Raises:
    FrameError: the frame has other content.
  """
  rules, labelled = network.rules, not network.rules.plan.u_shaped
  tensors, count = _read_examples(network, frame, labelled=labelled)
  mask = (np.arange(network.batch_size) < count).astype(np.float32)
  labels = tensors.get(LABELS)
  y, tape = rules.parties[network.server_index].forward(
    part,
    tensors[ACTIVATION],
    labels,
    jnp.asarray(mask),
    position.time,
    jax.random.fold_in(key, position.local_step),
  )
  pending = PendingStep(tape, mask)
  if not labelled:
    answer = Frame(OUTPUT, frame.step, frames.tree_tensors(rows(y, count)))
    return RequestResult(part, pending, answer, Metrics.zeros())
  gradient, metrics = rules.loss_gradient(y, Batch(None, labels, jnp.asarray(mask)))
  return _update(network, part, pending, rate, frame.step, gradient, metrics)


def backward(
  network: Network, part: Part, pending: PendingStep, rate: np.float32, frame: Frame
) -> RequestResult:
  """Answers the gradient of the server's outputs with that of the activations (U-shape)."""
  shapes = batched(network.outputs[network.server_index], int(pending.mask.sum()))
  gradient = _check_finite(frames.read_tree(frame, GRADIENT, shapes))
  gradient = jax.tree.map(jnp.asarray, padded(gradient, network.batch_size))
  return _update(network, part, pending, rate, frame.step, gradient, Metrics.zeros())


def infer(network: Network, part: Part, frame: Frame) -> Frame:
  """Answers activations in evaluation mode with the server's outputs."""
  tensors, count = _read_examples(network, frame, labelled=False)
  y = network.evaluate[network.server_index](part.variables, tensors[ACTIVATION])
  return Frame(OUTPUT, frame.step, frames.tree_tensors(rows(y, count)))


def _update(
  network: Network,
  part: Part,
  pending: PendingStep,
  rate: np.float32,
  step: int,
  gradient: PyTree,
  metrics: Metrics,
) -> RequestResult:
  party = network.rules.parties[network.server_index]
  count = jnp.asarray(pending.mask).sum()
  part, gradient = party.backward(part, pending.tape, gradient, count, rate)
  tensors = frames.tree_tensors(rows(gradient, int(pending.mask.sum())))
  return RequestResult(part, None, Frame(GRADIENT, step, tensors), metrics)


def _read_examples(
  network: Network, frame: Frame, *, labelled: bool
) -> tuple[dict[str, PyTree], int]:
  """Returns the tensors of a frame padded to the batch size, and the number of real examples."""
  first = next(iter(frame.tensors.values()), np.zeros(()))
  count = len(first) if first.ndim else 0
  if count == 0:
    raise FrameError("a message contains no examples.")
  if count > network.batch_size:
    raise FrameError(
      f"a message contains {count} examples but a batch has {network.batch_size} at most."
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
  """Returns tensors if all their numbers are finite; others would spoil the server's part."""
  if not all_finite(tree):
    raise FrameError(
      "a message contains numbers that are not finite, so its sender's training has diverged; "
      "lower the learning rate."
    )
  return tree
