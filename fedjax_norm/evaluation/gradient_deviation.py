"""How far the clients' gradients are from that of their joint batch (paper 002).

With batch normalization a client's gradient passes through the statistics of its own batch, so that
the mean of the clients' gradients is not the gradient of the joint batch, not even with a single
local step. With norms of single examples, and with frozen statistics, the two are equal.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jax import lax

from fedjax_norm.local_training.config import LocalConfig
from fedjax_norm.local_training.gradient import make_loss
from fedjax_norm.typing import Array, Batch, PyTree, Variables


def make_gradient_deviation(
  model: nn.Module, config: LocalConfig
) -> Callable[[Variables, Batch, Array], dict[str, Array]]:
  """Returns a function that compares gradients at the same model, without dropout.

  With g_k the gradient of the mean loss of client k's batch of n_k examples, and g that of all n
  examples as one batch, the deviation of a layer is

    || sum_k (n_k / n) g_k - g || / || g ||    over the parameters of the layer.

  Args:
    model: the model of a training phase; its norm merges no statistics across clients.
    config: options with the objective.

  Returns:
    ``deviation(variables, batches, time)`` -> path of a layer -> deviation, with ``batches`` [K, B]
    of K clients and ``time`` the training step that norms receive.
  """
  gradient = jax.grad(make_loss(model, config, dropout=False), has_aux=True)

  def deviation(variables: Variables, batches: Batch, time: Array) -> dict[str, Array]:
    params, stats = variables["params"], variables.get("batch_stats", {})
    count, key = batches.mask.sum(), jax.random.key(0)

    def of(batch: Batch) -> PyTree:
      return gradient(params, stats, batch, time, key, count)[0]

    mean = jax.tree.map(lambda g: g.sum(0), lax.map(of, batches))
    joint = of(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), batches))
    difference, scale = (_norms(tree) for tree in (jax.tree.map(jnp.subtract, mean, joint), joint))
    return {layer: difference[layer] / jnp.maximum(scale[layer], 1e-30) for layer in scale}

  return deviation


def _norms(gradient: PyTree) -> dict[str, Array]:
  """Returns path of a layer -> Euclidean norm of its part of the gradient."""
  squares: dict[str, Array] = {}
  for path, leaf in traverse_util.flatten_dict(gradient).items():
    layer = "/".join(path[:-1])
    squares[layer] = squares.get(layer, jnp.float32(0)) + jnp.square(leaf).sum()
  return {layer: jnp.sqrt(value) for layer, value in squares.items()}
