"""ResNets for CIFAR and ImageNet (He et al. 2016), with a norm or Fixup (Zhang et al. 2019)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.models.layers import Conv, Dense, he_normal
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, Norm, NormSpec
from fedjax_norm.ops.pool import max_pool
from fedjax_norm.typing import Array


class Scalar(nn.Module):
  """Adds a trainable scalar to an activation, or multiplies both (Fixup's rule 3)."""

  multiply: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps an activation to an activation of equal shape."""
    if self.multiply:
      return (x * self.param("multiplier", nn.initializers.ones, ())).astype(x.dtype)
    return (x + self.param("offset", nn.initializers.zeros, ())).astype(x.dtype)


def _fixup_init(num_branches: int, layers_in_branch: int) -> nn.initializers.Initializer:
  """Returns He's normal initialization scaled by L^(-1 / (2m - 2)) (Fixup's rule 2)."""
  scale = num_branches ** (-2.0 / (2 * layers_in_branch - 2))  # of the variance
  return nn.initializers.variance_scaling(2.0 * scale, "fan_in", "truncated_normal")


class Block(nn.Module):
  """A residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3, 1x1 with 4x the channels.

  With ``norm.fixup``, there is a scalar bias before every convolution and activation and a scalar
  multiplier at the end of the branch, and the last convolution of the branch is initialized to 0.

  Attributes:
    features: channels of the 3x3 convolutions.
    stride: 2 if the block halves the image, else 1.
    norm: norm of the model.
    bottleneck: whether the block is a bottleneck.
    projection: whether a shortcut that changes the shape is a 1x1 convolution; otherwise it is
      strided and padded with zero channels (option A of the CIFAR networks).
    num_branches: number L of residual branches of the network.
  """

  features: int
  stride: int
  norm: NormSpec
  bottleneck: bool
  projection: bool
  num_branches: int

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """Maps [N, H, W, I] to [N, H', W', features], or to 4 features with a bottleneck."""
    fixup, stride, one = self.norm.fixup, (self.stride, self.stride), (1, 1)
    use_bias = False if fixup else None
    if self.bottleneck:
      layers = [(self.features, one, one), (self.features, (3, 3), stride)]
      layers.append((4 * self.features, one, one))
    else:
      layers = [(self.features, (3, 3), stride), (self.features, (3, 3), one)]
    init = _fixup_init(self.num_branches, len(layers)) if fixup else he_normal

    x_in = Scalar()(x) if fixup else x
    y = x_in
    for index, (features, kernel, strides) in enumerate(layers):
      last = index == len(layers) - 1
      if fixup and index > 0:
        y = Scalar()(y)
      kernel_init = nn.initializers.zeros if fixup and last else init
      conv = Conv(features, kernel, self.norm, strides, "SAME", kernel_init, use_bias)
      y = Norm(self.norm, relu=not (fixup or last))(conv(y, mode), mode)
      if fixup:
        y = Scalar()(Scalar(multiply=True)(y)) if last else jax.nn.relu(Scalar()(y))

    if x.shape != y.shape:
      if self.projection:
        features = y.shape[-1]
        conv = Conv(features, one, self.norm, stride, "VALID", he_normal, use_bias, name="shortcut")
        x = Norm(self.norm, name="shortcut_norm")(conv(x_in, mode), mode)
      else:
        x = x[:, :: self.stride, :: self.stride]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, y.shape[-1] - x.shape[-1])))
    return jax.nn.relu(x + y)


class ResNet(Staged):
  """A residual network; :class:`Block` explains ``bottleneck`` and ``projection``.

  Attributes:
    blocks: number of blocks of each image size; between two sizes, the image is halved.
    features: channels at the first size; each halving of the image doubles the channels.
    norm: norm after every convolution, or Fixup.
    stem: ``'cifar'`` (3x3 convolution) or ``'imagenet'`` (7x7 at stride 2, and a max pool).
  """

  blocks: Sequence[int]
  features: int
  norm: NormSpec
  num_classes: int
  bottleneck: bool = False
  projection: bool = True
  stem: str = "cifar"

  def stages(self) -> Sequence[Stage]:
    """Returns the stages stem, block1_1, block1_2, ..., head; each residual block is a stage."""
    fixup, large = self.norm.fixup, self.stem == "imagenet"

    def stem(x: Array, mode: Mode) -> Array:
      size, strides = ((7, 7), (2, 2)) if large else ((3, 3), (1, 1))
      padding = ((3, 3), (3, 3)) if large else "SAME"
      settings = strides, padding, he_normal, False if fixup else None
      x = Conv(self.features, size, self.norm, *settings, name="Conv_0")(x, mode)
      x = Norm(self.norm, relu=not fixup, name="Norm_0")(x, mode)
      if fixup:
        x = jax.nn.relu(Scalar(name="Scalar_0")(x))
      return max_pool(x, 3, 2, ((1, 1), (1, 1))) if large else x

    def residual(size: int, index: int) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        block = Block(
          self.features * 2**size,
          2 if size > 0 and index == 0 else 1,
          self.norm,
          self.bottleneck,
          self.projection,
          sum(self.blocks),
          name=f"Block_{sum(self.blocks[:size]) + index}",
        )
        return block(x, mode)

      return f"block{size + 1}_{index + 1}", run

    def head(x: Array, mode: Mode) -> Array:
      x = x.mean((1, 2))
      if not fixup:
        return Dense(self.num_classes, self.norm, name="Dense_0")(x, mode)
      # Fixup's rule 1: the classifier is initialized to zero.
      dense = Dense(self.num_classes, self.norm, nn.initializers.zeros, name="Dense_0")
      return dense(Scalar(name="Scalar_1")(x), mode)

    blocks = (residual(size, i) for size, count in enumerate(self.blocks) for i in range(count))
    return ("stem", stem), *blocks, ("head", head)
