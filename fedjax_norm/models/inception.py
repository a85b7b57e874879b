"""Inception-v3 (Szegedy et al. 2016), the variant with published weights.

Modules A to E are in figures 5, 10, 6, 10 and 7. Numbers of channels that the figures do not
specify are those of the published network and of PyTorch.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.models.blocks import Unit, dropout, halve, sow_loss
from fedjax_norm.models.layers import Dense
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.ops.pool import avg_pool, ceil_pads
from fedjax_norm.typing import Array


class _Module(nn.Module):
  """Parallel branches that are concatenated along the channels."""

  norm: NormSpec

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """Maps [N, H, W, I] to [N, H', W', channels of all branches]."""
    return jnp.concatenate(self.branches(x, mode), -1)

  def branches(self, x: Array, mode: Mode) -> Sequence[Array]:
    """Returns the outputs of the branches, each [N, H', W', ...]."""
    raise NotImplementedError

  def convs(self, x: Array, mode: Mode, *steps: tuple[int, int, int]) -> Array:
    """Returns the output of consecutive convolutions (channels, kernel rows, kernel columns)."""
    for features, rows, columns in steps:
      x = Unit(features, (rows, columns), self.norm)(x, mode)
    return x

  def strided_conv(self, x: Array, mode: Mode, features: int) -> Array:
    """Returns the output of a 3x3 convolution at stride 2; H' and W' are those of ``halve``."""
    pads = ceil_pads(x.shape[1:3], 3, 2)
    return Unit(features, (3, 3), self.norm, 2, pads)(x, mode)

  def pool_conv(self, x: Array, mode: Mode, features: int) -> Array:
    """Returns the output of a 3x3 mean pool, which ignores padding, and a 1x1 convolution."""
    return self.convs(avg_pool(x, 3, 1, ((1, 1), (1, 1))), mode, (features, 1, 1))


class ModuleA(_Module):
  """Figure 5: branches with two 3x3 convolutions, with a 5x5 convolution, and with a mean pool.

  Attributes:
    after_pool: channels of the convolution after the pool.
  """

  after_pool: int

  def branches(self, x: Array, mode: Mode) -> Sequence[Array]:
    """Maps [N, H, W, I] to branches that together are [N, H, W, 224 + after_pool]."""
    return [
      self.convs(x, mode, (64, 1, 1)),
      self.convs(x, mode, (48, 1, 1), (64, 5, 5)),
      self.convs(x, mode, (64, 1, 1), (96, 3, 3), (96, 3, 3)),
      self.pool_conv(x, mode, self.after_pool),
    ]


class ModuleB(_Module):
  """Figure 10: halves the image by strided convolutions and a pool."""

  def branches(self, x: Array, mode: Mode) -> Sequence[Array]:
    """Maps [N, H, W, I] to branches that together are [N, H', W', 480 + I]."""
    three = self.strided_conv(x, mode, 384)
    return three, self.strided_conv(self.convs(x, mode, (64, 1, 1), (96, 3, 3)), mode, 96), halve(x)


class ModuleC(_Module):
  """Figure 6: 7x7 convolutions factorized into 1x7 and 7x1.

  Attributes:
    inner: channels between the 7x1 and 1x7 convolutions.
  """

  inner: int

  def branches(self, x: Array, mode: Mode) -> Sequence[Array]:
    """Maps [N, H, W, I] to branches that together are [N, H, W, 768]."""
    inner = self.inner
    long = [(inner, 1, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7)]
    return [
      self.convs(x, mode, (192, 1, 1)),
      self.convs(x, mode, (inner, 1, 1), (inner, 1, 7), (192, 7, 1)),
      self.convs(x, mode, *long),
      self.pool_conv(x, mode, 192),
    ]


class ModuleD(_Module):
  """Figure 10 with 1x7 and 7x1 convolutions before one of the strided convolutions."""

  def branches(self, x: Array, mode: Mode) -> Sequence[Array]:
    """Maps [N, H, W, I] to branches that together are [N, H', W', 512 + I]."""
    return [
      self.strided_conv(self.convs(x, mode, (192, 1, 1)), mode, 320),
      self.strided_conv(self.convs(x, mode, (192, 1, 1), (192, 1, 7), (192, 7, 1)), mode, 192),
      halve(x),
    ]


class ModuleE(_Module):
  """Figure 7: parallel 1x3 and 3x1 convolutions replace 3x3 convolutions."""

  def branches(self, x: Array, mode: Mode) -> Sequence[Array]:
    """Maps [N, H, W, I] to branches that together are [N, H, W, 2048]."""
    three = self.convs(x, mode, (384, 1, 1))
    double = self.convs(x, mode, (448, 1, 1), (384, 3, 3))
    return [
      self.convs(x, mode, (320, 1, 1)),
      self.convs(three, mode, (384, 1, 3)),
      self.convs(three, mode, (384, 3, 1)),
      self.convs(double, mode, (384, 1, 3)),
      self.convs(double, mode, (384, 3, 1)),
      self.pool_conv(x, mode, 192),
    ]


class Auxiliary(nn.Module):
  """An auxiliary classifier, whose loss times ``weight`` is added to the model's (fig. 8).

  It has a 5x5 mean pool at stride 3, a 1x1 convolution with 128 channels, a 5x5 convolution with
  768 channels, a mean pool and the output. Windows larger than the image are reduced to its size.
  """

  num_classes: int
  weight: float
  norm: NormSpec

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> None:
    """Adds the loss for the activation [N, H, W, I] to the flax collection ``losses``."""
    x = avg_pool(x, min(5, *x.shape[1:3]), 3)
    x = Unit(128, (1, 1), self.norm)(x, mode)
    _, rows, columns, _ = x.shape
    x = Unit(768, (min(5, rows), min(5, columns)), self.norm, padding="VALID")(x, mode)
    logits = Dense(self.num_classes, self.norm)(x.mean((1, 2)), mode)
    sow_loss(self, logits, self.weight, mode)


class InceptionV3(Staged):
  """The stem, modules A A A B C C C C D E E, a mean pool, dropout 0.5 and the output.

  A norm follows every convolution, also in the auxiliary classifier. The auxiliary classifier,
  after the last module C, is used only in training. It reduces the image to 1x1, so the norm
  ``in``, which would normalize single elements, is rejected. Labels are not smoothed. Kernels have
  He initialization. Layers that halve the image round its size up, but not for 299x299 pixels.

  Attributes:
    stem: ``'imagenet'`` (reduces 299x299 pixels to 35x35) or ``'cifar'`` (stride 1 and 'same'
      padding in all convolutions; reduces 32x32 pixels to 8x8, so that modules C and E get 4x4 and
      2x2).
    auxiliary: weight of the auxiliary classifier's cross-entropy; 0 omits the classifier.
  """

  norm: NormSpec
  num_classes: int
  stem: str = "cifar"
  auxiliary: float = 0.4

  def stages(self) -> Sequence[Stage]:
    """Returns the stages conv1 to conv5, module_a1 to module_e2 (c4 adds a loss) and head."""
    norm, large = self.norm, self.stem == "imagenet"
    padding = "VALID" if large else "SAME"
    units = (
      (32, 3, 2 if large else 1, padding),
      (32, 3, 1, padding),
      (64, 3, 1, "SAME"),
      (80, 1, 1, "SAME"),
      (192, 3, 1, padding),
    )

    def conv(index: int, features: int, side: int, stride: int, padding: str) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        x = Unit(features, (side, side), norm, stride, padding, name=f"Unit_{index}")(x, mode)
        return halve(x) if index in (2, 4) else x

      return f"conv{index + 1}", run

    def module(kind: type[_Module], index: int, *widths: int) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        return kind(norm, *widths, name=f"{kind.__name__}_{index}")(x, mode)

      return f"module_{kind.__name__[-1].lower()}{index + 1}", run

    def last_c(x: Array, mode: Mode) -> Array:
      x = ModuleC(norm, 192, name="ModuleC_3")(x, mode)
      if self.auxiliary and (mode.train or self.is_initializing()):
        Auxiliary(self.num_classes, self.auxiliary, norm, name="Auxiliary_0")(x, mode)
      return x

    def head(x: Array, mode: Mode) -> Array:
      x = dropout(x.mean((1, 2)), 0.5, mode, "Dropout_0")
      return Dense(self.num_classes, norm, name="Dense_0")(x, mode)

    return (
      *(conv(index, *unit) for index, unit in enumerate(units)),
      *(module(ModuleA, index, after_pool) for index, after_pool in enumerate((32, 64, 64))),
      module(ModuleB, 0),
      *(module(ModuleC, index, inner) for index, inner in enumerate((128, 160, 160))),
      ("module_c4", last_c),
      module(ModuleD, 0),
      *(module(ModuleE, index) for index in range(2)),
      ("head", head),
    )
