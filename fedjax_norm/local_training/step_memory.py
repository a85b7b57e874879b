"""An estimate of the device memory that a client's local step needs."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import ClosedJaxpr, Jaxpr

from fedjax_norm import tree_leaves
from fedjax_norm.local_training.config import LocalConfig
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array, PyTree, Variables


def step_bytes(
  model: nn.Module, config: LocalConfig, images: jax.ShapeDtypeStruct, batch_size: int | None = None
) -> int:
  """Returns an estimate of the bytes of device memory that a client's local step needs.

  They are four times the size of the model (weights, gradient, update and momentum) plus everything
  that the forward pass stores for the backward pass, of which the compiler may store less, plus the
  operands and the result of the largest convolution or matrix product of both passes. In the form
  that ``ops.rules`` chooses, a convolution may make several copies of its input.

  Args:
    model: the model, with a norm that does not merge statistics over clients.
    config: options of the client's steps.
    images: shape (H, W, C) of one image, and the dtype in which the model computes.
    batch_size: number of examples of the client's batch; None for the configuration's.
  """
  key = jax.random.key(0)
  variables = jax.eval_shape(
    lambda: model.init(key, jnp.zeros((1, *images.shape), images.dtype), Mode())
  )

  def step(variables: Variables, batch: Array) -> tuple[PyTree, PyTree]:
    def logits(params: PyTree) -> tuple[PyTree, PyTree]:
      inputs = ({**variables, "params": params}, batch, Mode(train=True, step=jnp.int32(0)))
      return model.apply(*inputs, mutable=["batch_stats"], rngs={"dropout": key})

    outputs, backward, _ = jax.vjp(logits, variables["params"], has_aux=True)
    return backward, backward(jax.tree.map(jnp.ones_like, outputs))

  shape = (-(-(batch_size or config.batch_size) // config.accumulate), *images.shape)
  batch = jax.ShapeDtypeStruct(shape, images.dtype)
  one_client = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), (variables, batch)
  )
  # Convolutions have other forms under vmap.
  program, (residuals, _) = jax.make_jaxpr(jax.vmap(step), return_shape=True)(*one_client)
  stored = 4 * tree_leaves.num_bytes(variables) + tree_leaves.num_bytes(residuals)
  return stored + _largest_product(program.jaxpr)


def _largest_product(program: Jaxpr) -> int:
  """Returns the bytes of the operands and the result of the largest matrix product of a program."""
  largest = 0
  for equation in program.eqns:
    if equation.primitive.name in ("dot_general", "conv_general_dilated"):
      arrays = [variable.aval for variable in (*equation.invars, *equation.outvars)]
      largest = max(largest, tree_leaves.num_bytes(arrays))
    for part in jax.tree.leaves(equation.params, is_leaf=_is_program):
      if _is_program(part):
        inner = part.jaxpr if isinstance(part, ClosedJaxpr) else part
        largest = max(largest, _largest_product(inner))
  return largest


def _is_program(value: object) -> bool:
  return isinstance(value, Jaxpr | ClosedJaxpr)
