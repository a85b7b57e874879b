"""What crosses between parties; there is nothing else that does."""

from typing import NamedTuple

import jax
import numpy as np

from fedjax_norm.typing import PyTree

ACTIVATION, GRADIENT, LABELS, HAND_OVER = "activation", "gradient", "labels", "hand_over"
SEED, MODEL, OUTPUT = "seed", "model", "output"
"""The kinds: of a cut (paper 003, Alg. 1, steps 6 and 10), of a turn (Alg. 2, step 7; sec. 3.4), of
an average of client parts, and of inference."""


class Message(NamedTuple):
  """One message.

  Attributes:
    kind: of the kinds above.
    sender: a party: ``alice3`` is client 3.
    receiver: a party.
    tensors: what it holds, numpy arrays; of a minibatch's only the rows of real examples.
    reader: whom it is for, where the receiver only passes it on.
  """

  kind: str
  sender: str
  receiver: str
  tensors: PyTree
  reader: str | None = None

  @property
  def num_bytes(self) -> int:
    """The bytes of its tensors, without headers and encryption."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.tensors))


def rows(tensors: PyTree, count: int) -> PyTree:
  """The first rows of a minibatch's tensors, on the host: the real examples."""
  return jax.tree.map(lambda a: np.asarray(a)[:count], tensors)


def padded(tensors: PyTree, size: int) -> PyTree:
  """The tensors with rows of zeros added up to a minibatch's size: what the receiver computes with.

  Raises:
    ValueError: more rows than that.
  """

  def pad(a):
    if len(a) > size:
      raise ValueError(f"{len(a)} rows do not fit a minibatch of {size}.")
    return np.concatenate([a, np.zeros((size - len(a), *a.shape[1:]), a.dtype)])

  return jax.tree.map(pad, tensors)
