"""Counts the floating-point operations of a model, by its layers' shapes or by XLA.

The count by shapes (:func:`layer_macs`, :func:`training_flops`) includes, as usual, only
convolutions and dense layers (also flax's ``Dense`` and ``Conv``), with two operations per
multiply-add. It is the same on all devices. Auxiliary classifiers, which are used only in
training, are included.

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
  """The numbers of floating-point operations of one step of :func:`step_flops`.

  Attributes:
    forward: operations of the forward pass.
    training: operations of the forward and the backward pass.
  """

  forward: float
  training: float


def one_example(shape: tuple[Any, ...]) -> PyTree:
  """Returns zeros [1, *shape] as a batch of one example; a tuple of them for a tuple of shapes."""
  if shape and isinstance(shape[0], tuple):
    return tuple(map(one_example, shape))
  return jnp.zeros((1, *shape), jnp.float32)


def layer_macs(model: nn.Module, input_shape: tuple[Any, ...], *stages: int) -> dict[str, int]:
  """Returns the multiply-adds of each layer in one example's forward pass: {layer path 'a/b': n}.

  Args:
    model: model with layers of ``layers.py`` or flax.
    input_shape: (H, W, C), or the shape of the input of the first stage that runs; a tuple of
      shapes if this stage has several inputs.
    *stages: first stage that runs and end of the stages, for a ``Staged`` model; by default all.
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
  """Returns the number of operations of the forward and the backward pass for one image.

  The backward pass computes the gradients of each layer's kernel and input, each of which costs as
  much as the forward pass, except the gradient of the image.

  Raises:
    UserError: the model has no convolution or dense layer.
  """
  macs = list(layer_macs(model, image_shape).values())
  if not macs:
    raise UserError(
      "the model has no dense or convolution layer whose operations a simulated clock could count; "
      "drop --network."
    )
  return 2 * (3 * sum(macs) - macs[0])


def program_flops(function: Callable, *shapes: PyTree) -> float:
  """Returns the number of operations of one call of a function, by XLA's cost analysis.

  Convolutions use XLA's default lowering, because the forms that are fast on a CPU also multiply
  zeros. The function should not have loops, because XLA counts the body of a loop only once.

  Args:
    function: function of arrays, not wrapped in ``jax.jit``, which would cache this trace.
    *shapes: ``jax.ShapeDtypeStruct``s of the function's arguments.
  """

  def set_count_flops(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    del context
    args = (a._replace(count_flops=True) if isinstance(a, Mode) else a for a in args)
    return call(*args, **kwargs)

  with nn.intercept_methods(set_count_flops):
    # JAX caches traces by function, so a new function is traced.
    cost = jax.jit(lambda *args: function(*args)).lower(*shapes).cost_analysis()
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
  """Returns the operations of one training step of the stages ``begin`` to ``end`` of a model.

  Excluded are dropout, because the cost of random numbers depends on the platform, the loss and the
  optimizer.

  Args:
    model: ``Staged`` model, with a norm that does not merge statistics over clients.
    image_shape: (H, W, C).
    begin: index of the first stage.
    end: index after the last stage; None for all remaining stages.
    batch_size: number of examples in the step.
    input_gradient: whether the step computes the gradient of the input of the first stage.
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
