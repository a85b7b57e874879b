"""The convolutions of the models, and of small networks in the literature."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm import models, norm
from fedjax_norm.models.layers import Conv
from fedjax_norm.norm import Mode
from fedjax_norm.ops.geometry import Geometry, explicit_pads

# The models of the benchmarks' workloads come first, in case the time does not suffice for all.
_FIRST = ("niid", "cnn", "resnet20", "tiny", "resnet18")
MODELS = (*_FIRST, *(name for name in models.MODELS if name not in _FIRST))
_SHAPES = {"lenet5": (28, 28, 1), "tiny": (8, 8, 1)}  # (H, W, C) if not that of CIFAR-10
# (image, kernel, padding, input channels, output channels) of small networks in the literature
_PUBLISHED = (
  (32, 5, "VALID", 3, 6),
  (14, 5, "VALID", 6, 16),
  (32, 5, "SAME", 3, 64),
  (28, 5, "SAME", 1, 32),
  (28, 5, "SAME", 1, 6),
)


class Shape(NamedTuple):
  """A convolution of a model.

  Attributes:
    geometry: sizes along rows and columns.
    inputs: channels of the input.
    outputs: channels of the output.
  """

  geometry: Geometry
  inputs: int
  outputs: int

  def title(self) -> str:
    """Returns a description such as '32x32, 3 to 6, 5x5 VALID'."""
    size, taps, stride = (f"{rows}x{columns}" for rows, columns in self.geometry[:3])
    strided = "" if stride == "1x1" else f", stride {stride}"
    for name in ("SAME", "VALID"):
      if self.geometry.pads == explicit_pads(*self.geometry[:3], name):
        return f"{size}, {self.inputs} to {self.outputs}, {taps} {name}{strided}"
    return (
      f"{size}, {self.inputs} to {self.outputs}, {taps} padded by {self.geometry.pads}{strided}"
    )


def model_shapes(name: str) -> list[Shape]:
  """Returns the distinct convolutions of a model on images of its usual size."""
  found: dict[Shape, None] = {}

  def see(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    layer = context.module
    if isinstance(layer, Conv) and context.method_name == "__call__":
      image, taps, strides = args[0].shape[1:3], layer.kernel_size, layer.strides
      pads = explicit_pads(image, taps, strides, layer.padding)
      shape = Shape(Geometry(image, taps, strides, pads), args[0].shape[-1], layer.features)
      found.setdefault(shape)
    return call(*args, **kwargs)

  image_shape = _SHAPES.get(name, (32, 32, 3))
  model = models.create(name, norm.create("gn"), 10, image_shape)
  with nn.intercept_methods(see):
    images = jnp.zeros((1, *image_shape))
    jax.eval_shape(lambda: model.init(jax.random.key(0), images, Mode()))
  return list(found)


def shapes(names: Iterable[str]) -> list[Shape]:
  """Returns the distinct convolutions of the models and of the published small networks."""
  found = [shape for name in names for shape in model_shapes(name)]
  for size, taps, padding, inputs, outputs in _PUBLISHED:
    image, kernel = (size, size), (taps, taps)
    pads = explicit_pads(image, kernel, (1, 1), padding)
    found.append(Shape(Geometry(image, kernel, (1, 1), pads), inputs, outputs))
  return list(dict.fromkeys(found))
