"""How often a classifier ranks an example of a class above examples of other classes (AUROC)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.typing import Array


def outranked(scores: Array, labels: Array) -> Array:
  """Counts, for each example, the examples of other classes that its class scores lower.

  The scores of the example's class are compared. A score that is nan counts as an error: it
  outranks no score of another class, and no score of the own class outranks it.

  Args:
    scores: [N, C] scores of the classes, less than infinity, such as log-probabilities.
    labels: [N] int32 classes; -1 for examples to ignore.

  Returns:
    [N] int32, twice the number of examples with a lower score plus the number of equal scores.
  """
  size, classes = scores.shape
  rival = (labels[:, None] >= 0) & (labels[:, None] != jnp.arange(classes))
  rivals = jnp.sort(jnp.where(rival, scores, jnp.inf).T)  # [C, N], with nan at the end
  own = jnp.take_along_axis(scores, labels[:, None], 1)[:, 0]
  bits = size.bit_length()

  def count(below: Callable[[Array, Array], Array]) -> Array:
    """Returns the length of the start of its class's ``rivals`` that is below each example."""

    def add_bit(index: Array, length: Array) -> Array:
      longer = length + (1 << (bits - 1 - index))
      fits = (longer <= size) & below(rivals[labels, longer - 1], own)
      return jnp.where(fits, longer, length)

    return jax.lax.fori_loop(0, bits, add_bit, jnp.zeros(size, jnp.int32))

  return count(jnp.less) + count(jnp.less_equal)


def auroc(outranked: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
  """Returns the area under the ROC curve of each class against all others, [C] float64.

  That is the probability that an example of the class gets a higher score for it than an example of
  another class, where equal scores count half (Mann and Whitney 1947); nan for a class without
  examples, or without examples of other classes. ``outranked`` [N] is the result of
  :func:`outranked` for the ``labels`` [N].
  """
  real = labels >= 0
  count = functools.partial(np.bincount, labels[real], minlength=classes)
  examples = count()
  pairs = examples * (real.sum() - examples)
  won = count(weights=outranked[real]) / 2
  return np.divide(won, pairs, out=np.full(classes, np.nan), where=pairs > 0)
