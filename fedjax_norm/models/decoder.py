"""A small network that reconstructs images from the activations at the cut of a split model."""

import jax
from flax import linen as nn

from fedjax_norm import norm
from fedjax_norm.models.layers import Conv, Dense, he_normal
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array

_MAX_START = 8  # largest side of the map that a flat activation becomes before it is enlarged


class Decoder(nn.Module):
  """Reconstructs images from activations by 3x3 convolutions between bilinear resizings.

  Convolutions with ReLU alternate with resizings, which at most double each side, until the
  activation has the size of the image; a larger activation is shrunk. A last convolution without
  ReLU outputs the image. If the activation has no rows and columns, a dense layer first computes a
  small map from it. No layer has a norm.

  Semi-supervised split learning (paper 003, Alg. 3) and the inversion attack
  (``evaluation/leakage/inversion.py``) use this decoder.

  Attributes:
    image_shape: shape (H, W, C) of the reconstructed images.
    features: channels of the hidden layers.
  """

  image_shape: tuple[int, int, int]
  features: int = 32

  @nn.compact
  def __call__(self, activation: Array, mode: Mode) -> Array:
    """Maps activations [N, h, w, c] or [N, ...] to images [N, H, W, C] of the same dtype."""
    spec = norm.create("none")
    *size, channels = self.image_shape
    x = activation
    if x.ndim != 4:
      rows, columns = (_start_size(pixels) for pixels in size)
      x = x.reshape(len(x), -1)
      x = Dense(rows * columns * self.features, spec, he_normal)(x, mode)
      x = jax.nn.relu(x).reshape(-1, rows, columns, self.features)

    def hidden(x: Array) -> Array:
      return jax.nn.relu(Conv(self.features, (3, 3), spec, kernel_init=he_normal)(x, mode))

    x = hidden(x)
    while x.shape[1:3] != tuple(size):
      rows, columns = (min(2 * old, target) for old, target in zip(x.shape[1:3], size, strict=True))
      # This compiles to products with constant matrices, so the gradient needs no scatter.
      x = jax.image.resize(x, (len(x), rows, columns, x.shape[-1]), "bilinear")
      x = hidden(x)
    return Conv(channels, (3, 3), spec)(x, mode)


def _start_size(pixels: int) -> int:
  """Returns the side halved, rounded up, until it is at most ``_MAX_START``."""
  while pixels > _MAX_START:
    pixels = -(-pixels // 2)
  return pixels
