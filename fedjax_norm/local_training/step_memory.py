"""An estimate of the device memory that a client's local step needs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm import tree_leaves
from fedjax_norm.local_training.config import LocalConfig
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array, PyTree, Variables


def step_bytes(model: nn.Module, config: LocalConfig, images: jax.ShapeDtypeStruct) -> int:
  """Returns an estimate of the bytes of device memory that a client's local step needs.

  They are four times the size of the model (weights, gradient, update and momentum) plus everything
  that the forward pass stores for the backward pass; the compiler may store less of it.

  Args:
    model: the model, with a norm that does not merge statistics over clients.
    config: options of the client's steps.
    images: shape (H, W, C) of one image, and the dtype in which the model computes.
  """
  key = jax.random.key(0)
  variables = jax.eval_shape(
    lambda: model.init(key, jnp.zeros((1, *images.shape), images.dtype), Mode())
  )

  def backward(variables: Variables, batch: Array) -> Callable[..., PyTree]:
    def logits(params: PyTree) -> PyTree:
      inputs = ({**variables, "params": params}, batch, Mode(train=True, step=jnp.int32(0)))
      return model.apply(*inputs, mutable=["batch_stats"], rngs={"dropout": key})

    return jax.vjp(logits, variables["params"])[1]

  shape = (config.batch_size // config.accumulate, *images.shape)
  residuals = jax.eval_shape(backward, variables, jax.ShapeDtypeStruct(shape, images.dtype))
  return 4 * tree_leaves.num_bytes(variables) + tree_leaves.num_bytes(residuals)
