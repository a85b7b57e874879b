"""An estimate of the memory that a client's local step needs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm import tree_leaves
from fedjax_norm.local_training.config import LocalConfig
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array, PyTree, Variables


def step_bytes(model: nn.Module, config: LocalConfig, images: jax.ShapeDtypeStruct) -> int:
  """Estimates the bytes of a client's step: four times its model, and the residuals of autodiff.

  Besides the model, there are the gradient, the update and the momentum. The residuals are what
  the forward pass stores for the backward pass; the compiler may need fewer of them.

  Args:
    model: the model, with a norm that is bound to no axis.
    config: settings of the client.
    images: shape of one image, and the dtype that the model computes in.
  """
  key = jax.random.key(0)
  variables = jax.eval_shape(
    lambda: model.init(key, jnp.zeros((1, *images.shape), images.dtype), Mode())
  )

  def backward(variables: Variables, batch: Array) -> Callable[..., PyTree]:
    def logits(params: PyTree) -> PyTree:
      mode = Mode(train=True, step=jnp.int32(0))
      changed = ["batch_stats"]
      return model.apply(
        {**variables, "params": params}, batch, mode, mutable=changed, rngs={"dropout": key}
      )

    return jax.vjp(logits, variables["params"])[1]

  batch = jax.ShapeDtypeStruct(
    (config.batch_size // config.accumulate, *images.shape), images.dtype
  )
  residuals = jax.eval_shape(backward, variables, batch)
  return 4 * tree_leaves.num_bytes(variables) + tree_leaves.num_bytes(residuals)
