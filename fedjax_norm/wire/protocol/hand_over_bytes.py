"""Encodes what a client hands over to the next client (paper 003, Alg. 2, step 7; sec. 3.4)."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.split import weight_delta
from fedjax_norm.split.messages import HAND_OVER
from fedjax_norm.split.parties import Part
from fedjax_norm.typing import Key
from fedjax_norm.wire.protocol import frames
from fedjax_norm.wire.protocol.frames import UPDATES, Frame
from fedjax_norm.wire.protocol.network import Network

_SEED = "seed"


def pack(parts: tuple[Part, ...], step: int) -> bytes:
  """Encodes the state of a client's segments; ``step`` is the first step after its training."""
  return frames.encode(Frame(HAND_OVER, step, frames.tree_tensors(parts)))


def pack_updates(network: Network, parts: tuple[Part, ...], step: int, seed: Key) -> bytes:
  """Encodes the seed of the initial weights and the differences from them, as in :func:`pack`."""
  start = network.client_parts(network.initial_parts(seed))
  differences = frames.tree_tensors(weight_delta.difference(parts, start))
  words = np.asarray(jax.random.key_data(seed))
  return frames.encode(Frame(UPDATES, step, {**differences, _SEED: words}))


def unpack(network: Network, data: bytes) -> tuple[tuple[Part, ...], Key | None]:
  """Decodes a hand-over: the state of the client's segments, and the seed if it has differences.

  Raises ``FrameError`` if the tensors differ from the network's in name, shape or dtype.
  """
  frame = frames.decode(data)
  if frame.kind != UPDATES:
    parts = frames.read_tree(frame, HAND_OVER, shapes(network))
    return jax.tree.map(jnp.asarray, parts), None
  words = frame.tensors.get(_SEED, np.zeros(0))
  if words.dtype != np.uint32 or words.shape != (2,):
    raise frames.FrameError("weight updates came without the seed that they are relative to.")
  seed = jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")
  start = network.client_parts(network.initial_parts(seed))
  differences = frame._replace(tensors={k: v for k, v in frame.tensors.items() if k != _SEED})
  template = jax.eval_shape(weight_delta.difference, start, start)
  return weight_delta.restore(frames.read_tree(differences, UPDATES, template), start), seed


def shapes(network: Network) -> tuple[Part, ...]:
  """Returns the shapes of the state of the client's segments."""
  return network.client_parts(jax.eval_shape(network.initial_parts, jax.random.key(0)))
