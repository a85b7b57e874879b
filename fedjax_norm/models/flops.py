"""How many floating-point operations a model takes, counted from its layers' shapes.

Counted are convolutions and dense layers, as is usual; a multiply-add is two operations. The layers
are asked for their shapes, so the count is the same however a platform lowers them. Auxiliary
classifiers, which training alone runs, are counted.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.models.layers import Conv, Dense
from fedjax_norm.norm import Mode


def layer_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
  """The multiply-adds of one image's way forward, by the layer's path ('a/b'), first layer first.

  Args:
    model: of the layers in ``layers.py``.
    image_shape: (H, W, C).
  """
  macs: dict[str, int] = {}

  def note(call, args, kwargs, context):
    out = call(*args, **kwargs)
    layer = context.module
    if context.method_name == "__call__" and isinstance(layer, Conv | Dense):
      window = math.prod(layer.kernel_size) if isinstance(layer, Conv) else 1
      path = "/".join(layer.path)
      macs[path] = macs.get(path, 0) + math.prod(out.shape) * window * args[0].shape[-1]
    return out

  image = jnp.zeros((1, *image_shape), jnp.float32)
  with nn.intercept_methods(note):
    jax.eval_shape(lambda: model.init(jax.random.key(0), image, Mode()))
  return macs


def training_flops(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
  """The operations of training on one image: the way forward and both gradients.

  The gradients with respect to a layer's kernel and to its input cost as much as its way forward,
  which makes three times that; but of the first layer's input, the image, there is no gradient.
  """
  macs = list(layer_macs(model, image_shape).values())
  return 2 * (3 * sum(macs) - macs[0])
