"""Inception-v3 (Szegedy et al. 2016), in the form whose weights its authors published.

The modules A to E are those of figures 5, 10, 6, 10 and 7. Their figures leave some channels open;
these are the published network's, which PyTorch's also has.
"""

import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.models.blocks import Unit, dropout, halve, sow_cross_entropy
from fedjax_norm.models.layers import Dense
from fedjax_norm.models.pool import avg_pool, ceil_pads
from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.typing import Array


class _Module(nn.Module):
  """Ways side by side, joined on the channel axis.

  Attributes:
    norm: the norm after every convolution.
  """

  norm: NormSpec

  def way(self, x: Array, mode: Mode, *steps: tuple[int, int, int]) -> Array:
    """Convolutions one after another, each as (channels, rows, columns) of its kernel."""
    for features, rows, columns in steps:
      x = Unit(features, (rows, columns), self.norm)(x, mode)
    return x

  def halved(self, x: Array, mode: Mode, features: int) -> Array:
    """A 3x3 convolution at stride 2, rounded up like the pool beside it."""
    pads = ceil_pads(x.shape[1:3], 3, 2)
    return Unit(features, (3, 3), self.norm, 2, pads)(x, mode)

  def pooled(self, x: Array, mode: Mode, features: int) -> Array:
    """A 3x3 mean pool over what lies inside the image, and a 1x1 convolution."""
    return self.way(avg_pool(x, 3, 1, ((1, 1), (1, 1))), mode, (features, 1, 1))


class ModuleA(_Module):
  """Figure 5: 5x5 replaced by two 3x3, beside a smaller 5x5.

  Attributes:
    after_pool: channels of the convolution after the pool.
  """

  after_pool: int

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """[N, H, W, I] -> [N, H, W, 224 + after_pool]."""
    ways = [
      self.way(x, mode, (64, 1, 1)),
      self.way(x, mode, (48, 1, 1), (64, 5, 5)),
      self.way(x, mode, (64, 1, 1), (96, 3, 3), (96, 3, 3)),
      self.pooled(x, mode, self.after_pool),
    ]
    return jnp.concatenate(ways, -1)


class ModuleB(_Module):
  """Figure 10: halves the image, by strided convolutions and a pool."""

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """[N, H, W, I] -> [N, H', W', 480 + I]."""
    ways = [
      self.halved(x, mode, 384),
      self.halved(self.way(x, mode, (64, 1, 1), (96, 3, 3)), mode, 96),
      halve(x),
    ]
    return jnp.concatenate(ways, -1)


class ModuleC(_Module):
  """Figure 6: 7x7 as 1x7 and 7x1.

  Attributes:
    inner: channels between these convolutions.
  """

  inner: int

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """[N, H, W, I] -> [N, H, W, 768]."""
    inner = self.inner
    long = [(inner, 1, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7)]
    ways = [
      self.way(x, mode, (192, 1, 1)),
      self.way(x, mode, (inner, 1, 1), (inner, 1, 7), (192, 7, 1)),
      self.way(x, mode, *long),
      self.pooled(x, mode, 192),
    ]
    return jnp.concatenate(ways, -1)


class ModuleD(_Module):
  """Figure 10 once more, with 1x7 and 7x1 before one of the strided convolutions."""

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """[N, H, W, I] -> [N, H', W', 512 + I]."""
    ways = [
      self.halved(self.way(x, mode, (192, 1, 1)), mode, 320),
      self.halved(self.way(x, mode, (192, 1, 1), (192, 1, 7), (192, 7, 1)), mode, 192),
      halve(x),
    ]
    return jnp.concatenate(ways, -1)


class ModuleE(_Module):
  """Figure 7: 3x3 as 1x3 and 3x1 side by side."""

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """[N, H, W, I] -> [N, H, W, 2048]."""
    three = self.way(x, mode, (384, 1, 1))
    double = self.way(x, mode, (448, 1, 1), (384, 3, 3))
    ways = [
      self.way(x, mode, (320, 1, 1)),
      self.way(three, mode, (384, 1, 3)),
      self.way(three, mode, (384, 3, 1)),
      self.way(double, mode, (384, 1, 3)),
      self.way(double, mode, (384, 3, 1)),
      self.pooled(x, mode, 192),
    ]
    return jnp.concatenate(ways, -1)


class Auxiliary(nn.Module):
  """A classifier on the side, for its loss alone (fig. 8).

  A 5x5 mean pool at stride 3, 1x1-128, 5x5-768, mean pool and the output. Windows that are larger
  than a small image shrink to it.

  Attributes:
    num_classes: outputs.
    weight: of its cross-entropy.
    norm: the norm after every convolution.
  """

  num_classes: int
  weight: float
  norm: NormSpec

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> None:
    """Sows the loss of [N, H, W, I]."""
    x = avg_pool(x, min(5, *x.shape[1:3]), 3)
    x = Unit(128, (1, 1), self.norm)(x, mode)
    _, rows, columns, _ = x.shape
    x = Unit(768, (min(5, rows), min(5, columns)), self.norm, padding="VALID")(x, mode)
    logits = Dense(self.num_classes, self.norm)(x.mean((1, 2)), mode)
    sow_cross_entropy(self, logits, self.weight, mode)


class InceptionV3(nn.Module):
  """The stem, modules A A A B C C C C D E E, a mean pool, dropout 0.5 and the output.

  A norm stands after every convolution, those of the auxiliary classifier included. Training has
  the auxiliary classifier, after the last C; evaluation does without. It ends in a single position,
  so that ``in``, which would normalize single elements there, is refused. Labels are not smoothed.
  Kernels begin as He et al. propose. What halves the image is rounded up; with 299x299 pixels,
  nothing is left over anywhere.

  Attributes:
    norm: the norm after every convolution.
    num_classes: outputs.
    stem: ``'imagenet'`` (299x299 pixels come out of it as 35x35) or ``'cifar'``, whose first
      convolution has stride 1 and all of whose convolutions keep the size (32x32 come out as 8x8,
      and modules C and E see 4x4 and 2x2).
    auxiliary: the weight of the auxiliary classifier's cross-entropy; 0 leaves it out.
  """

  norm: NormSpec
  num_classes: int
  stem: str = "cifar"
  auxiliary: float = 0.4

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """[N, H, W, I] -> logits [N, num_classes]."""
    norm, large = self.norm, self.stem == "imagenet"
    padding = "VALID" if large else "SAME"
    x = Unit(32, (3, 3), norm, 2 if large else 1, padding)(x, mode)
    x = Unit(32, (3, 3), norm, padding=padding)(x, mode)
    x = halve(Unit(64, (3, 3), norm)(x, mode))
    x = Unit(80, (1, 1), norm)(x, mode)
    x = halve(Unit(192, (3, 3), norm, padding=padding)(x, mode))
    for after_pool in (32, 64, 64):
      x = ModuleA(norm, after_pool)(x, mode)
    x = ModuleB(norm)(x, mode)
    for inner in (128, 160, 160, 192):
      x = ModuleC(norm, inner)(x, mode)
    if self.auxiliary and (mode.train or self.is_initializing()):
      Auxiliary(self.num_classes, self.auxiliary, norm)(x, mode)
    x = ModuleD(norm)(x, mode)
    for _ in range(2):
      x = ModuleE(norm)(x, mode)
    return Dense(self.num_classes, norm)(dropout(x.mean((1, 2)), 0.5, mode), mode)
