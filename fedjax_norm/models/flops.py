"""Counts the floating-point operations of a model, by its layers' shapes or by XLA.

The count by shapes (:func:`layer_macs`, :func:`training_flops`) includes, as usual, only
convolutions and dense layers (ours, and flax's ``Dense`` and ``Conv``), with two operations per
multiply-add. It does not depend on how a platform lowers the layers. Auxiliary classifiers, which
are used only in training, are included.

XLA's count (:func:`step_flops`) includes all operations of a step, also norms, activations and
pools; for convolutions it excludes multiplications with padding.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.errors import UserError
from fedjax_norm.models.layers import Linear
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array, PyTree


class Flops(NamedTuple):
  """The operations of one step of some stages.

  Attributes:
    forward: operations of the forward pass.
    training: operations of the forward and the backward pass.
  """

  forward: float
  training: float


def one_example(shape: tuple[Any, ...]) -> PyTree:
  """Returns zeros with the shape of one example, or a tuple of them for several shapes."""
  if shape and isinstance(shape[0], tuple):
    return tuple(map(one_example, shape))
  return jnp.zeros((1, *shape), jnp.float32)


def layer_macs(model: nn.Module, input_shape: tuple[Any, ...], *stages: int) -> dict[str, int]:
  """Counts the multiply-adds of one example's forward pass, by the path 'a/b' of the layer.

  Args:
    model: model with layers of ``layers.py`` or flax.
    input_shape: (H, W, C), or the shape of the input of the first stage that runs; a tuple of
      shapes if it has several inputs.
    *stages: begin and end of the stages that run, for a staged model; all stages by default.
  """
  macs: dict[str, int] = {}

  def count_layer(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    out = call(*args, **kwargs)
    layer = context.module
    if context.method_name == "__call__" and isinstance(layer, (Linear, nn.Dense, nn.Conv)):
      path = "/".join(layer.path)
      if isinstance(layer, Linear):
        count = layer.macs(args[0], out)
      else:
        count = out.size * math.prod(layer.get_variable("params", "kernel").shape[:-1])
      macs[path] = macs.get(path, 0) + count
    return out

  def init() -> PyTree:
    return model.init(jax.random.key(0), one_example(input_shape), Mode(), *stages)

  with nn.intercept_methods(count_layer):
    jax.eval_shape(init)
  return macs


def training_flops(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
  """Counts the operations of training on one image: the forward pass and both gradients.

  The gradients of a layer's kernel and of its input cost as much as its forward pass each, in total
  three times the forward pass. The first layer has no gradient of its input, the image.

  Raises:
    UserError: the model has no convolution or dense layer.
  """
  macs = list(layer_macs(model, image_shape).values())
  if not macs:
    raise UserError(
      "the model has no dense or convolution layer whose operations a simulated clock could count; "
      "drop the network."
    )
  return 2 * (3 * sum(macs) - macs[0])


def program_flops(function: Callable, *shapes: PyTree) -> float:
  """Counts the operations of one call of a function, by XLA's cost analysis.

  Convolutions use XLA's default lowering, because the forms that are fast on a CPU also multiply
  zeros. The function should not have loops, because their body is counted once.

  Args:
    function: function of arrays, not compiled, because a compiled one would cache this trace.
    *shapes: shapes of its arguments.
  """

  def set_count_flops(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    del context
    args = (a._replace(count_flops=True) if isinstance(a, Mode) else a for a in args)
    return call(*args, **kwargs)

  def uncached(*args: Any) -> Any:  # JAX caches traces by function
    return function(*args)

  with nn.intercept_methods(set_count_flops):
    cost = jax.jit(uncached).lower(*shapes).cost_analysis()
  assert cost is not None, "this backend cannot count operations"
  return float(cost.get("flops", 0.0))


def step_flops(
  model: nn.Module,
  image_shape: tuple[int, int, int],
  begin: int = 0,
  end: int | None = None,
  batch_size: int = 1,
  input_gradient: bool = True,
) -> Flops:
  """Counts the operations of one step of a party that has some stages of a model.

  Dropout is excluded, because the cost of random numbers depends on the platform, and so are the
  loss and the optimizer.

  Args:
    model: staged model, with a norm that is bound to no axis.
    image_shape: (H, W, C).
    begin: index of the party's first stage.
    end: index after the party's last stage; None for all remaining stages.
    batch_size: number of examples in the step.
    input_gradient: whether the step computes the gradient of its input; not needed for images.
  """
  key = jax.random.key(0)

  def cut_activation(x: Array) -> PyTree:
    return model.init_with_output(key, x, Mode(), 0, begin)[0]

  x = jax.eval_shape(cut_activation, jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32))
  rest = dict(jax.eval_shape(lambda x: model.init(key, x, Mode(), begin, end), x))
  params = rest.pop("params", {})
  labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)

  def forward(params: PyTree, x: PyTree, rest: PyTree, labels: Array) -> tuple[PyTree, PyTree]:
    mode = Mode(train=True, dropout=False, step=jnp.int32(0), labels=labels)
    mutable = ["batch_stats", "losses"]
    y, changed = model.apply({**rest, "params": params}, x, mode, begin, end, mutable=mutable)
    return (y, changed.get("losses", {})), changed.get("batch_stats", {})

  def training(params: PyTree, x: PyTree, rest: PyTree, labels: Array) -> PyTree:
    def run(params: PyTree, x: PyTree = x) -> tuple[PyTree, PyTree]:
      return forward(params, x, rest, labels)

    primals = (params, x) if input_gradient else (params,)
    out, pullback, stats = jax.vjp(run, *primals, has_aux=True)
    return out, pullback(jax.tree.map(jnp.ones_like, out)), stats

  arguments = (params, x, rest, labels)
  return Flops(program_flops(forward, *arguments), program_flops(training, *arguments))
