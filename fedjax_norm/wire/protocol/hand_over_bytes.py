"""What one Alice hands over to the next, as bytes (paper 003, Alg. 2, step 7; sec. 3.4)."""

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


def pack(own: tuple[Part, ...], step: int) -> bytes:
  """Parameters, running statistics and optimizer states, as they are."""
  return frames.encode(Frame(HAND_OVER, step, frames.named(own)))


def pack_updates(network: Network, own: tuple[Part, ...], step: int, seed: Key) -> bytes:
  """The seed, and the bits that have been added to what it gives.

  Args:
    network: the model.
    own: Alice's parts.
    step: the first that is not in them.
    seed: that training began from.
  """
  added = frames.named(weight_delta.difference(own, network.own(network.begin(seed))))
  words = np.asarray(jax.random.key_data(seed))
  return frames.encode(Frame(UPDATES, step, {**added, _SEED: words}))


def unpack(network: Network, data: bytes) -> tuple[tuple[Part, ...], Key | None]:
  """Alice's parts, and the seed if that came with them; the inverse of both of the above.

  Args:
    network: the model; what does not fit it is refused.
    data: what was handed over.

  Raises:
    FrameError: it is not what the network needs.
  """
  frame = frames.decode(data)
  if frame.kind != UPDATES:
    parts = frames.tree_of(frame, HAND_OVER, templates(network))
    return jax.tree.map(jnp.asarray, parts), None
  words = frame.tensors.get(_SEED, np.zeros(0))
  if words.dtype != np.uint32 or words.shape != (2,):
    raise frames.FrameError("updates came without the seed that they are relative to.")
  seed = jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")
  start = network.own(network.begin(seed))
  added = frame._replace(tensors={k: v for k, v in frame.tensors.items() if k != _SEED})
  shapes = jax.eval_shape(weight_delta.difference, start, start)
  return weight_delta.restore(frames.tree_of(added, UPDATES, shapes), start), seed


def templates(network: Network) -> tuple[Part, ...]:
  """The shapes of Alice's parts."""
  return network.own(jax.eval_shape(network.begin, jax.random.key(0)))
