"""GoogLeNet (Szegedy et al. 2015, table 1), with or without a norm."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.models.blocks import Unit, dropout, halve, sow_loss
from fedjax_norm.models.layers import Dense, he_normal
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.ops.pool import avg_pool, max_pool
from fedjax_norm.typing import Array


class Widths(NamedTuple):
  """The channels of the convolutions of an inception module, named like the columns of table 1."""

  one: int
  three_reduce: int
  three: int
  five_reduce: int
  five: int
  pool_proj: int


MODULES = (
  ("3a", Widths(64, 96, 128, 16, 32, 32)),
  ("3b", Widths(128, 128, 192, 32, 96, 64)),
  ("4a", Widths(192, 96, 208, 16, 48, 64)),
  ("4b", Widths(160, 112, 224, 24, 64, 64)),
  ("4c", Widths(128, 128, 256, 24, 64, 64)),
  ("4d", Widths(112, 144, 288, 32, 64, 64)),
  ("4e", Widths(256, 160, 320, 32, 128, 128)),
  ("5a", Widths(256, 160, 320, 32, 128, 128)),
  ("5b", Widths(384, 192, 384, 48, 128, 128)),
)


class Inception(nn.Module):
  """Four parallel branches: 1x1; 1x1 and 3x3; 1x1 and 5x5; a 3x3 max pool and 1x1 (fig. 2b)."""

  widths: Widths
  norm: NormSpec

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """Maps [N, H, W, I] to [N, H, W, one + three + five + pool_proj]."""
    widths = self.widths

    def unit(name: str, features: int, side: int, x: Array) -> Array:
      return Unit(features, (side, side), self.norm, name=name)(x, mode)

    branches = [
      unit("1x1", widths.one, 1, x),
      unit("3x3", widths.three, 3, unit("3x3_reduce", widths.three_reduce, 1, x)),
      unit("5x5", widths.five, 5, unit("5x5_reduce", widths.five_reduce, 1, x)),
      unit("pool_proj", widths.pool_proj, 1, max_pool(x, 3, 1, ((1, 1), (1, 1)))),
    ]
    return jnp.concatenate(branches, -1)


class Auxiliary(nn.Module):
  """An auxiliary classifier, whose loss times ``weight`` is added to the model's (sec. 5).

  It has a 5x5 mean pool at stride 3, a 1x1 convolution with 128 channels, a dense layer of 1024
  units, dropout 0.7 and the output. In images smaller than 5x5, the pool's window is a square as
  long as the image's shorter side, as in paper 004's network for CIFAR-10.
  """

  num_classes: int
  weight: float
  norm: NormSpec

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> None:
    """Adds the loss for the activation [N, H, W, I] to the flax collection ``losses``."""
    x = avg_pool(x, min(5, *x.shape[1:3]), 3)
    x = Unit(128, (1, 1), self.norm)(x, mode)
    x = jax.nn.relu(Dense(1024, self.norm, he_normal)(x.reshape(len(x), -1), mode))
    logits = Dense(self.num_classes, self.norm)(dropout(x, 0.7, mode), mode)
    sow_loss(self, logits, self.weight, mode)


class GoogLeNet(Staged):
  """The stem, nine inception modules, a mean pool, dropout 0.4 and the output.

  Without a norm, this is the original network without two local response normalizations, which
  hardly change images of unit scale. A norm follows every convolution, also in the auxiliary
  classifiers. The sizes of all 3x3 max pools at stride 2 are rounded up. Kernels have He
  initialization.

  The two auxiliary classifiers, after modules 4a and 4d, are used only in training. Images of 32x32
  pixels are 1x1 there, so the norm ``in``, which would normalize single elements, is rejected.

  Attributes:
    stem: first convolution: ``'imagenet'`` (7x7 at stride 2) or ``'cifar'`` (3x3 at stride 1, which
      keeps the size). The network for CIFAR-10 that paper 004's authors published has the ImageNet
      stem, which reduces 32x32 pixels to 1x1, and no dropout before the output.
    auxiliary: weight of each auxiliary classifier's cross-entropy; 0 omits the classifiers.
  """

  norm: NormSpec
  num_classes: int
  stem: str = "cifar"
  auxiliary: float = 0.3

  def stages(self) -> Sequence[Stage]:
    """Returns the stages conv1 to conv3, inception_3a to inception_5b, head, with their pools."""

    def conv1(x: Array, mode: Mode) -> Array:
      if self.stem == "imagenet":
        unit = Unit(64, (7, 7), self.norm, 2, ((3, 3), (3, 3)), name="Unit_0")
      else:
        unit = Unit(64, (3, 3), self.norm, name="Unit_0")
      return halve(unit(x, mode))

    def conv2(x: Array, mode: Mode) -> Array:
      return Unit(64, (1, 1), self.norm, name="Unit_1")(x, mode)

    def conv3(x: Array, mode: Mode) -> Array:
      return halve(Unit(192, (3, 3), self.norm, name="Unit_2")(x, mode))

    def inception(name: str, widths: Widths) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        x = Inception(widths, self.norm, name=f"inception_{name}")(x, mode)
        has_auxiliary = self.auxiliary and (mode.train or self.is_initializing())
        if name in ("4a", "4d") and has_auxiliary:
          head = Auxiliary(self.num_classes, self.auxiliary, self.norm, name=f"auxiliary_{name}")
          head(x, mode)
        return halve(x) if name in ("3b", "4e") else x

      return f"inception_{name}", run

    def head(x: Array, mode: Mode) -> Array:
      x = dropout(x.mean((1, 2)), 0.4, mode, "Dropout_0")
      return Dense(self.num_classes, self.norm, name="Dense_0")(x, mode)

    stem = ("conv1", conv1), ("conv2", conv2), ("conv3", conv3)
    return *stem, *(inception(*module) for module in MODULES), ("head", head)
