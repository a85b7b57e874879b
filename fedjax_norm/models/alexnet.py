"""AlexNet (Krizhevsky et al. 2012), and its variant for CIFAR-10 in paper 004."""

from collections.abc import Sequence

from fedjax_norm.models.blocks import Unit, dense_stages, halve
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.ops.pool import max_pool
from fedjax_norm.typing import Array

# Channels of the five convolutions; units of the hidden dense layers.
_CIFAR = (24, 64, 96, 96, 64), (512,)
_IMAGENET = (96, 256, 384, 384, 256), (4096, 4096)


class AlexNet(Staged):
  """Five convolutions, with 3x3 max pools at stride 2 after the 1st, 2nd and 5th, and dense layers.

  The stem ``'cifar'`` (765,738 parameters on CIFAR-10) is the network that the authors of paper 004
  published with their code: 7x7-24 (24 channels), 5x5-64, 3x3-96, 3x3-96, 3x3-64, all at stride 1
  with 'same' padding, pools rounded up, dense 512 and the output. ``'imagenet'`` (62,378,344
  parameters with 1000 classes) is the original as one column, without groups in its convolutions:
  11x11-96 at stride 4 with a padding of 2, 5x5-256, 3x3-384, 3x3-384, 3x3-256, pools rounded down,
  dense 4096 twice and the output. Hidden dense layers are followed by a ReLU and dropout 0.5.

  Both variants omit local response normalization: the authors' CIFAR network has none, and for
  images of unit scale its factor (1 + 1e-4 / 5 * a sum of 5 squares)^-0.75 is close to 1. The norm
  is between each convolution and the ReLU. Kernels have He initialization.
  """

  norm: NormSpec
  num_classes: int
  stem: str = "cifar"

  def stages(self) -> Sequence[Stage]:
    """Returns the stages conv1 to conv5, dense1 (and dense2), head."""
    large = self.stem == "imagenet"
    channels, hidden = _IMAGENET if large else _CIFAR

    def conv(index: int, features: int) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        name = f"Unit_{index}"
        if index == 0 and large:
          x = Unit(features, (11, 11), self.norm, 4, ((2, 2), (2, 2)), name=name)(x, mode)
        else:
          side = (7, 5, 3, 3, 3)[index]
          x = Unit(features, (side, side), self.norm, name=name)(x, mode)
        if index in (0, 1, 4):
          x = max_pool(x, 3, 2) if large else halve(x)
        return x

      return f"conv{index + 1}", run

    convs = (conv(index, features) for index, features in enumerate(channels))
    return *convs, *dense_stages(hidden, self.num_classes, self.norm)
