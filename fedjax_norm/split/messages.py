"""The messages that parties exchange; nothing else crosses between them."""

from typing import NamedTuple

import jax
import numpy as np

from fedjax_norm.typing import PyTree

ACTIVATION, GRADIENT, LABELS, HAND_OVER = "activation", "gradient", "labels", "hand_over"
SEED, MODEL, OUTPUT = "seed", "model", "output"
"""The kinds of messages. In training, activations and labels go to the next party and gradients
return (paper 003, Alg. 1, steps 6 and 10). Before a client trains, it receives the weights of the
previous client (``hand_over``; Alg. 2, step 7) and the seed of the initial weights (sec. 3.4), or
in SplitFed the averaged ``model``. Outputs are sent in inference."""


class Message(NamedTuple):
  """A message from one party to another.

  Attributes:
    kind: kind of the message, such as ``activation``.
    sender: sending party; ``alice3`` is client 3.
    receiver: receiving party.
    tensors: numpy arrays; those of a minibatch have only the rows of real examples.
    reader: final recipient if the receiver only forwards the message, else None.
  """

  kind: str
  sender: str
  receiver: str
  tensors: PyTree
  reader: str | None = None

  @property
  def num_bytes(self) -> int:
    """The bytes of the message's tensors, without headers and encryption."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.tensors))


def rows(tensors: PyTree, count: int) -> PyTree:
  """Returns the first ``count`` rows of a minibatch's tensors, without padding, as numpy arrays."""
  return jax.tree.map(lambda a: np.asarray(a)[:count], tensors)


def padded(tensors: PyTree, size: int) -> PyTree:
  """Returns the tensors with rows of zeros appended, so that each has ``size`` rows.

  Raises:
    ValueError: a tensor has more than ``size`` rows.
  """

  def pad(a: np.ndarray) -> np.ndarray:
    if len(a) > size:
      raise ValueError(f"{len(a)} rows do not fit into a minibatch of {size}.")
    return np.concatenate([a, np.zeros((size - len(a), *a.shape[1:]), a.dtype)])

  return jax.tree.map(pad, tensors)
