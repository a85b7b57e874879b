"""What Bob computes of the tensors that he is sent, and what he refuses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.local import Metrics
from fedjax_norm.split.messages import ACTIVATION, GRADIENT, LABELS, OUTPUT, padded, rows
from fedjax_norm.split.parties import Part, Tape
from fedjax_norm.typing import Batch, Key, PyTree
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.frames import Frame, FrameError
from fedjax_norm.wire.protocol.network import Moment, Network, finite, leading


class Way(NamedTuple):
  """Of the U-shape: what the way forward of a step left for the way back.

  Attributes:
    tape: Bob's.
    mask: [batch size] float32, 1 for a real example.
  """

  tape: Tape
  mask: np.ndarray


class Computed(NamedTuple):
  """What a request leaves.

  Attributes:
    part: Bob's, after it.
    way: not None where the step is but half done.
    answer: to the request.
    metrics: of the step's examples, as far as Bob knows them.
  """

  part: Part
  way: Way | None
  answer: Frame
  metrics: Metrics


def forward(
  network: Network, part: Part, moment: Moment, key: Key, rate: np.float32, frame: Frame
) -> Computed:
  """A step's activations, and in the plain shape labels -> outputs, or the gradient at the cut.

  Args:
    network: the model.
    part: Bob's.
    moment: when the step is.
    key: of the turn's dropout.
    rate: of the round.
    frame: what came.

  Raises:
    FrameError: something else came.
  """
  rules, labelled = network.rules, not network.rules.plan.u_shaped
  sent, count = _received(network, frame, labelled=labelled)
  mask = (np.arange(network.batch_size) < count).astype(np.float32)
  labels = sent.get(LABELS)
  y, tape = rules.parties[network.bob].forward(
    part,
    sent[ACTIVATION],
    labels,
    jnp.asarray(mask),
    moment.time,
    jax.random.fold_in(key, moment.local_step),
  )
  if not labelled:
    answer = Frame(OUTPUT, frame.step, frames.named(rows(y, count)))
    return Computed(part, Way(tape, mask), answer, Metrics.zeros())
  gradient, metrics = rules.loss_gradient(y, Batch(None, labels, jnp.asarray(mask)))
  return _stepped(network, part, Way(tape, mask), rate, frame.step, gradient, metrics)


def backward(network: Network, part: Part, way: Way, rate: np.float32, frame: Frame) -> Computed:
  """The gradient of the body's outputs -> that of the activations (see :func:`forward`)."""
  shapes = leading(network.outputs[network.bob], int(way.mask.sum()))
  gradient = _checked(frames.tree_of(frame, GRADIENT, shapes))
  gradient = jax.tree.map(jnp.asarray, padded(gradient, network.batch_size))
  return _stepped(network, part, way, rate, frame.step, gradient, Metrics.zeros())


def infer(network: Network, part: Part, frame: Frame) -> Frame:
  """Activations in evaluation -> outputs.

  Raises:
    FrameError: something else came.
  """
  sent, count = _received(network, frame, labelled=False)
  y = network.evaluate[network.bob](part.variables, sent[ACTIVATION])
  return Frame(OUTPUT, frame.step, frames.named(rows(y, count)))


def _stepped(
  network: Network,
  part: Part,
  way: Way,
  rate: np.float32,
  step: int,
  gradient: PyTree,
  metrics: Metrics,
) -> Computed:
  party = network.rules.parties[network.bob]
  part, gradient = party.backward(part, way.tape, gradient, jnp.asarray(way.mask).sum(), rate)
  answer = Frame(GRADIENT, step, frames.named(rows(gradient, int(way.mask.sum()))))
  return Computed(part, None, answer, metrics)


def _received(network: Network, frame: Frame, *, labelled: bool) -> tuple[dict[str, PyTree], int]:
  """What a frame brings of some examples, padded to a minibatch, and how many they are."""
  first = next(iter(frame.tensors.values()), np.zeros(()))
  count = len(first) if first.ndim else 0
  if count == 0:
    raise FrameError("a message brings no examples.")
  if count > network.batch_size:
    raise FrameError(
      f"{count} examples came at once where a minibatch has {network.batch_size} at most."
    )
  wanted = {ACTIVATION: leading(network.outputs[0], count)}
  if labelled:
    wanted[LABELS] = leading(network.label, count)
  sent = frames.tree_of(frame, ACTIVATION, wanted)
  _checked(sent[ACTIVATION])
  labels = sent.get(LABELS, np.zeros(0))
  if ((labels < 0) | (labels >= network.num_classes)).any():
    raise FrameError(f"a label is none of the {network.num_classes} classes.")
  return jax.tree.map(jnp.asarray, padded(sent, network.batch_size)), count


def _checked(tree: PyTree) -> PyTree:
  """Tensors whose numbers are all finite.

  Raises:
    FrameError: they are not, and would spoil Bob's part for all.
  """
  if not finite(tree):
    raise FrameError(
      "a message holds numbers that are not finite, so training has diverged at its sender's; "
      "lower the learning rate."
    )
  return tree
