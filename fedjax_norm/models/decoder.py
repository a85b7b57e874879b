"""A small network that turns the activations of a cut back into images."""

import jax
from flax import linen as nn

from fedjax_norm import norm
from fedjax_norm.models.layers import Conv, Dense, he_normal
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array

_SMALL = 8  # rows and columns that a flat activation is given at most, before it is enlarged


class Decoder(nn.Module):
  """Activations -> images, without a norm: 3x3 convolutions between enlargements by two.

  A map is enlarged (bilinear, at most twice a side at a time, with a convolution and ReLU before
  each) until it has the image's size, a larger one is made smaller; a last convolution without
  ReLU gives the image. An activation without rows and columns first becomes a small map by a dense
  layer.

  It is the decoder of semi-supervised split learning (paper 003, Alg. 3), and the attacker's.

  Attributes:
    image_shape: H, W, C of the images.
    features: channels of the hidden layers.
  """

  image_shape: tuple[int, int, int]
  features: int = 32

  @nn.compact
  def __call__(self, activation: Array, mode: Mode) -> Array:
    """[N, h, w, c], or [N, ...] of any other rank -> [N, H, W, C] of the activation's dtype."""
    spec = norm.create("none")
    *size, channels = self.image_shape
    x = activation
    if x.ndim != 4:
      rows, columns = (_small(pixels) for pixels in size)
      x = x.reshape(len(x), -1)
      x = Dense(rows * columns * self.features, spec, he_normal)(x, mode)
      x = jax.nn.relu(x).reshape(-1, rows, columns, self.features)

    def hidden(x: Array) -> Array:
      return jax.nn.relu(Conv(self.features, (3, 3), spec, kernel_init=he_normal)(x, mode))

    x = hidden(x)
    while x.shape[1:3] != tuple(size):
      rows, columns = (min(2 * now, wanted) for now, wanted in zip(x.shape[1:3], size, strict=True))
      # As products with constant matrices, whose gradients scatter nothing.
      x = jax.image.resize(x, (len(x), rows, columns, x.shape[-1]), "bilinear")
      x = hidden(x)
    return Conv(channels, (3, 3), spec)(x, mode)


def _small(pixels: int) -> int:
  """A side halved, rounded up, until it is small."""
  while pixels > _SMALL:
    pixels = -(-pixels // 2)
  return pixels
