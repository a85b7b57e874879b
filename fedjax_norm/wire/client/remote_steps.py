"""Alice's steps with Bob at the other end, and inference (paper 003, Alg. 2 and sec. 3)."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.errors import DivergedError
from fedjax_norm.local import Metrics
from fedjax_norm.split.messages import ACTIVATION, GRADIENT, LABELS, OUTPUT, padded, rows
from fedjax_norm.split.parties import Part, Party, Tape
from fedjax_norm.split.rules import Rules
from fedjax_norm.typing import Array, PyTree
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.frames import Frame
from fedjax_norm.wire.protocol.network import Network, finite, leading
from fedjax_norm.wire.protocol.transport import COMPUTING, Caller


class Remote:
  """Bob's party, as one step of Alice's sees it: what he computes is asked of him."""

  def __init__(self, network: Network, call: Caller, limit: int, step: int):
    """Prepares a step.

    Args:
      network: the model.
      call: Bob.
      limit: the most bytes of an answer.
      step: its number.
    """
    self._network, self._call, self._limit, self._step = network, call, limit, step

  def rules(self) -> Rules:
    """The rules, with Bob's computations at the other end of the wire."""
    network, rules = self._network, self._network.rules
    parties = list(rules.parties)
    if rules.plan.u_shaped:
      parties[network.bob] = Party(parties[network.bob].init, self._outputs, self._back)
      return rules._replace(parties=tuple(parties))
    parties[network.bob] = Party(parties[network.bob].init, self._there_and_back, self._came_back)
    return rules._replace(
      parties=tuple(parties), loss_gradient=lambda outputs, batch: (None, Metrics.zeros())
    )

  def _asked(self, method: str, kind: str, sent: PyTree, answer: str, shapes: PyTree) -> PyTree:
    """Sends the rows of real examples, and pads those that come back."""
    frame = Frame(kind, self._step, frames.named(sent))
    wanted = leading(shapes, len(jax.tree.leaves(sent)[0]))
    tree = _answer(self._call, self._limit, method, frame, answer, wanted)
    return jax.tree.map(jnp.asarray, padded(tree, self._network.batch_size))

  def _there_and_back(self, part, x, labels, mask, time, key) -> tuple[None, Tape]:
    sent = rows({ACTIVATION: x, LABELS: labels}, int(mask.sum()))
    shapes = self._network.outputs[0]
    gradient = self._asked("Forward", ACTIVATION, sent, GRADIENT, shapes)
    return None, gradient

  def _came_back(self, part, tape, gradient, count, rate) -> tuple[Part, PyTree]:
    return part, tape

  def _outputs(self, part, x, labels, mask, time, key) -> tuple[PyTree, Tape]:
    count, network = int(mask.sum()), self._network
    sent = rows({ACTIVATION: x}, count)
    shapes = network.outputs[network.bob]
    return self._asked("Forward", ACTIVATION, sent, OUTPUT, shapes), count  # type: ignore

  def _back(self, part, tape, gradient, count: Array, rate) -> tuple[Part, PyTree]:
    shapes = self._network.outputs[0]
    sent = rows(gradient, tape)
    return part, self._asked("Backward", GRADIENT, sent, GRADIENT, shapes)


def _answer(
  call: Caller, limit: int, method: str, frame: Frame, kind: str, shapes: PyTree
) -> PyTree:
  """The tensors that the server answers, checked."""
  reply = frames.decode(call(method, frames.encode(frame), COMPUTING), limit)
  if reply.step != frame.step:
    raise frames.FrameError("an answer is of another step than the request.")
  tree = frames.tree_of(reply, kind, shapes)
  _check_finite(tree, "the server's answer")
  return tree


def _check_finite(tree: PyTree, what: str) -> None:
  if not finite(tree):
    raise DivergedError(
      f"{what} has numbers that are not finite: training has diverged; lower the learning rate at "
      "the server."
    )


def infer(
  network: Network,
  call: Caller,
  limit: int,
  own: tuple[Part, ...],
  step: int,
  batches: Iterator[np.ndarray],
) -> np.ndarray:
  """The logits of images, of which Bob sees the activations at the cut (sec. 3).

  Args:
    network: the model.
    call: Bob.
    limit: the most bytes of a message.
    own: Alice's parts.
    step: the first that is not in them.
    batches: images as the model takes them, a minibatch's worth at most each.

  Raises:
    DivergedError: logits are not finite.
  """
  found = []
  for images in batches:
    x = network.evaluate[0](own[0].variables, padded(images, network.batch_size))
    frame = Frame(ACTIVATION, step, frames.named({ACTIVATION: rows(x, len(images))}))
    shapes = leading(network.outputs[network.bob], len(images))
    outputs = _answer(call, limit, "Infer", frame, OUTPUT, shapes)
    if network.rules.plan.u_shaped:
      last = jax.tree.map(jnp.asarray, padded(outputs, network.batch_size))
      outputs = network.evaluate[-1](own[-1].variables, last)
      _check_finite(outputs, "the output of the client's tail")
    found.append(np.asarray(rows(outputs, len(images)), np.float32))
  return np.concatenate(found)
