"""How many floating-point operations a model takes, by its layers' shapes and by XLA's count.

By the shapes (:func:`layer_macs`, :func:`training_flops`), counted are convolutions and dense
layers, as is usual, ours and flax's ``Dense`` and ``Conv``; a multiply-add is two operations. The
layers are asked for their shapes, so the count is the same however a platform lowers them.
Auxiliary classifiers, which training alone runs, are counted.

XLA's count (:func:`step_flops`) is of everything that one plain step does, norms, activations and
pools too; of a convolution's window it counts the places inside the image alone.
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
from fedjax_norm.typing import PyTree


class Flops(NamedTuple):
  """The operations of a step of some stages.

  Attributes:
    forward: of the way forward.
    training: of the way forward and the gradients.
  """

  forward: float
  training: float


def one_example(shape: tuple[Any, ...]) -> PyTree:
  """Zeros of one example's shape, or of each of several shapes."""
  if shape and isinstance(shape[0], tuple):
    return tuple(map(one_example, shape))
  return jnp.zeros((1, *shape), jnp.float32)


def layer_macs(model: nn.Module, image_shape: tuple[Any, ...], *stretch: int) -> dict[str, int]:
  """The multiply-adds of one image's way forward, by the layer's path ('a/b'), first layer first.

  Args:
    model: of the layers in ``layers.py``.
    image_shape: (H, W, C), or the shape of what the first stage of the stretch takes, or of each
      of the several tensors that it takes.
    *stretch: begin and end of the stages that run, of a staged model; nothing is all of it.
  """
  macs: dict[str, int] = {}

  def note(call, args, kwargs, context):
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

  def init():
    return model.init(jax.random.key(0), one_example(image_shape), Mode(), *stretch)

  with nn.intercept_methods(note):
    jax.eval_shape(init)
  return macs


def training_flops(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
  """The operations of training on one image: the way forward and both gradients.

  The gradients with respect to a layer's kernel and to its input cost as much as its way forward,
  which makes three times that; but of the first layer's input, the image, there is no gradient.

  Raises:
    UserError: the model has no layer whose operations are counted.
  """
  macs = list(layer_macs(model, image_shape).values())
  if not macs:
    raise UserError(
      "the model has no dense or convolution layer whose operations a simulated clock could count; "
      "drop the network."
    )
  return 2 * (3 * sum(macs) - macs[0])


def program_flops(function: Callable, *shapes: PyTree) -> float:
  """The operations of one call of a function, by XLA's cost analysis of what it is lowered to.

  Convolutions of modules in it are lowered plainly, for the forms that run fast on a CPU compute
  zeros besides. The body of a loop is counted once: there should be none.

  Args:
    function: of arrays, itself not compiled, for a compiled one would keep what is traced here.
    *shapes: of its arguments.
  """

  def plainly(call, args, kwargs, context):
    del context
    args = (a._replace(count_flops=True) if isinstance(a, Mode) else a for a in args)
    return call(*args, **kwargs)

  def fresh(*args):  # JAX keeps traces by function
    return function(*args)

  with nn.intercept_methods(plainly):
    cost = jax.jit(fresh).lower(*shapes).cost_analysis()
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
  """The operations of one plain step of a party that holds some stages of a model.

  Dropout is left out, whose random numbers are another matter on each platform, and so are the loss
  on the model's outputs and the optimizer.

  Args:
    model: a staged model, its norm bound to no axis.
    image_shape: (H, W, C).
    begin: the first stage that the party holds.
    end: the stage after its last; None is the end.
    batch_size: examples of the step.
    input_gradient: whether the gradient of what comes in is among those computed; of images nobody
      needs it.
  """
  key = jax.random.key(0)

  def give(x):
    return model.init_with_output(key, x, Mode(), 0, begin)[0]

  x = jax.eval_shape(give, jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32))
  rest = dict(jax.eval_shape(lambda x: model.init(key, x, Mode(), begin, end), x))
  params = rest.pop("params", {})
  labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)

  def forward(params, x, rest, labels):
    mode = Mode(train=True, dropout=False, step=jnp.int32(0), labels=labels)
    mutable = ["batch_stats", "losses"]
    y, changed = model.apply({**rest, "params": params}, x, mode, begin, end, mutable=mutable)
    return (y, changed.get("losses", {})), changed.get("batch_stats", {})

  def training(params, x, rest, labels):
    def run(params, x=x):
      return forward(params, x, rest, labels)

    given = (params, x) if input_gradient else (params,)
    out, pullback, stats = jax.vjp(run, *given, has_aux=True)
    return out, pullback(jax.tree.map(jnp.ones_like, out)), stats

  arguments = (params, x, rest, labels)
  return Flops(program_flops(forward, *arguments), program_flops(training, *arguments))
