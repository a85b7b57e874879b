"""VGG-16 (Simonyan and Zisserman 2015, configuration D), for ImageNet and CIFAR."""

from collections.abc import Sequence

from fedjax_norm.models.blocks import Unit, dense_stages, halve
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.typing import Array

# Channels of the 3x3 convolutions, grouped by the pools between them.
_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(Staged):
  """Thirteen 3x3 convolutions with 2x2 max pools after the 2nd, 4th, 7th, 10th and last.

  The stems differ in their hidden dense layers, which are followed by a ReLU and dropout 0.5:
  ``'imagenet'`` (138,357,544 parameters with 1000 classes on 224x224 pixels and without a norm) is
  the original with two layers of 4096 units; ``'cifar'`` (14,982,474 parameters with 10 classes on
  32x32 pixels, which the convolutions reduce to 1x1) has the usual single layer of 512 units. The
  norm is between each convolution and the ReLU. Pools are rounded up, which matters only for small
  images. Kernels have He initialization. With the norm ``in``, images must be larger than 16x16,
  because smaller images are 1x1 before the last convolutions.
  """

  norm: NormSpec
  num_classes: int
  stem: str = "cifar"

  def stages(self) -> Sequence[Stage]:
    """Returns the stages conv1_1, conv1_2, conv2_1, ..., conv5_3, dense1 (and dense2), head."""
    hidden = (4096, 4096) if self.stem == "imagenet" else (512,)

    def conv(name: str, features: int, last: bool) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        x = Unit(features, (3, 3), self.norm, name=name)(x, mode)
        return halve(x, 2) if last else x

      return name, run

    return (
      *(
        conv(f"conv{block}_{i}", features, last=i == len(channels))
        for block, channels in enumerate(_CHANNELS, 1)
        for i, features in enumerate(channels, 1)
      ),
      *dense_stages(hidden, self.num_classes, self.norm),
    )
