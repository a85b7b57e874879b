"""A client's requests to the server in local steps and inference (paper 003, Alg. 2, sec. 3)."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.errors import DivergedError
from fedjax_norm.local_training import Metrics
from fedjax_norm.split.messages import ACTIVATION, GRADIENT, LABELS, OUTPUT, padded, rows
from fedjax_norm.split.parties import Part, Party
from fedjax_norm.split.rules import Rules
from fedjax_norm.typing import Array, PyTree
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.caller import COMPUTING, Caller
from fedjax_norm.wire.protocol.frames import Frame
from fedjax_norm.wire.protocol.network import Network, all_finite, batched


class RemoteServer:
  """Replaces the server's functions in a training step by requests to the server.

  ``step`` is the number of the local step in the run.
  """

  def __init__(self, network: Network, call: Caller, limit: int, step: int):
    self._network, self._call, self._limit, self._step = network, call, limit, step

  def rules(self) -> Rules:
    """Returns the network's rules of a step, with the server's functions replaced by requests."""
    rules, index = self._network.rules, self._network.server_index
    parties = list(rules.parties)
    init = parties[index].init
    if rules.plan.u_shaped:
      parties[index] = Party(init, self._forward_u_shaped, self._backward_u_shaped)  # type: ignore
      return rules._replace(parties=tuple(parties))
    # The tape is the gradient, which the server has sent already.
    parties[index] = Party(init, self._forward_with_labels, lambda part, tape, *_: (part, tape))
    return rules._replace(
      parties=tuple(parties), loss_gradient=lambda outputs, batch: (None, Metrics.zeros())
    )

  def _send(self, method: str, kind: str, tensors: PyTree, answer: str, shapes: PyTree) -> PyTree:
    """Sends one row per example, and returns the answer with zero rows up to the batch size."""
    frame = Frame(kind, self._step, frames.tree_tensors(tensors))
    expected = batched(shapes, len(jax.tree.leaves(tensors)[0]))
    tree = _call(self._call, self._limit, method, frame, answer, expected)
    return jax.tree.map(jnp.asarray, padded(tree, self._network.batch_size))

  def _forward_with_labels(
    self, part: Part, x: PyTree, labels: Array, mask: Array, time: Array, key: Array
  ) -> tuple[None, PyTree]:
    """Sends activations and labels; returns the answer, the gradient at the cut, as the tape."""
    tensors = rows({ACTIVATION: x, LABELS: labels}, int(mask.sum()))
    return None, self._send("Forward", ACTIVATION, tensors, GRADIENT, self._network.outputs[0])

  def _forward_u_shaped(
    self, part: Part, x: PyTree, labels: None, mask: Array, time: Array, key: Array
  ) -> tuple[PyTree, int]:
    """Sends activations and returns the server's outputs; the tape is the number of examples."""
    count, shapes = int(mask.sum()), self._network.outputs[self._network.server_index]
    return self._send("Forward", ACTIVATION, rows({ACTIVATION: x}, count), OUTPUT, shapes), count

  def _backward_u_shaped(
    self, part: Part, tape: int, gradient: PyTree, count: Array, rate: Array
  ) -> tuple[Part, PyTree]:
    shapes = self._network.outputs[0]
    return part, self._send("Backward", GRADIENT, rows(gradient, tape), GRADIENT, shapes)


def _call(call: Caller, limit: int, method: str, frame: Frame, kind: str, shapes: PyTree) -> PyTree:
  """Returns the tensors of the server's answer, with step, shapes and values checked."""
  reply = frames.decode(call(method, frames.encode(frame), COMPUTING), limit)
  if reply.step != frame.step:
    raise frames.FrameError("the server's answer belongs to another step than the request.")
  tree = frames.read_tree(reply, kind, shapes)
  _check_finite(tree, "the server's answer")
  return tree


def _check_finite(tree: PyTree, subject: str) -> None:
  if not all_finite(tree):
    raise DivergedError(
      f"{subject} has numbers that are not finite: training has diverged; lower --lr at the server."
    )


def infer(
  network: Network,
  call: Caller,
  limit: int,
  parts: tuple[Part, ...],
  step: int,
  batches: Iterator[np.ndarray],
) -> np.ndarray:
  """Returns the logits of images, [N, classes] float32; the server computes the middle segment.

  Args:
    network: the cut network.
    call: calls the server.
    limit: largest number of bytes in an answer.
    parts: state of the client's segments.
    step: number of the first step after the training of ``parts``.
    batches: preprocessed images [n, H, W, C], with n at most the batch size.

  Raises:
    DivergedError: the server's outputs or the logits are not finite.
  """
  logits = []
  for images in batches:
    x = network.evaluate[0](parts[0].variables, padded(images, network.batch_size))
    frame = Frame(ACTIVATION, step, frames.tree_tensors({ACTIVATION: rows(x, len(images))}))
    shapes = batched(network.outputs[network.server_index], len(images))
    outputs = _call(call, limit, "Infer", frame, OUTPUT, shapes)
    if network.rules.plan.u_shaped:
      x = jax.tree.map(jnp.asarray, padded(outputs, network.batch_size))
      outputs = network.evaluate[-1](parts[-1].variables, x)
      _check_finite(outputs, "the output of the client's tail")
    logits.append(np.asarray(rows(outputs, len(images)), np.float32))
  return np.concatenate(logits)
