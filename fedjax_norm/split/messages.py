"""The messages that parties exchange; nothing else crosses between them."""

from typing import NamedTuple

import jax
import numpy as np

from fedjax_norm.typing import PyTree

ACTIVATION, GRADIENT, LABELS, HAND_OVER = "activation", "gradient", "labels", "hand_over"
SEED, MODEL, OUTPUT = "seed", "model", "output"
"""The kinds of messages. Activations, gradients and labels cross a cut (paper 003, Alg. 1, steps 6
and 10); a hand-over (Alg. 2, step 7) and a seed (sec. 3.4) come before a turn; SplitFed averages
models; outputs belong to inference."""


class Message(NamedTuple):
  """One message.

  Attributes:
    kind: one of the kinds above.
    sender: sending party; ``alice3`` is client 3.
    receiver: receiving party.
    tensors: numpy arrays; tensors of a minibatch have only the rows of real examples.
    reader: final recipient, if the receiver only forwards the message.
  """

  kind: str
  sender: str
  receiver: str
  tensors: PyTree
  reader: str | None = None

  @property
  def num_bytes(self) -> int:
    """The bytes of the tensors, without headers and encryption."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.tensors))


def rows(tensors: PyTree, count: int) -> PyTree:
  """Returns the first rows of a minibatch's tensors, the real examples, as numpy arrays."""
  return jax.tree.map(lambda a: np.asarray(a)[:count], tensors)


def padded(tensors: PyTree, size: int) -> PyTree:
  """Returns the tensors with rows of zeros appended up to the size of a minibatch.

  Raises:
    ValueError: more rows than ``size``.
  """

  def pad(a: np.ndarray) -> np.ndarray:
    if len(a) > size:
      raise ValueError(f"{len(a)} rows do not fit a minibatch of {size}.")
    return np.concatenate([a, np.zeros((size - len(a), *a.shape[1:]), a.dtype)])

  return jax.tree.map(pad, tensors)
