"""``fcn``: a small fully convolutional encoder-decoder that predicts the class of every pixel."""

from collections.abc import Sequence

from flax import linen as nn

from fedjax_norm.models.layers import Conv, he_normal
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, Norm, NormSpec
from fedjax_norm.typing import Array


class FCN(Staged):
  """3x3 convolutions, each with a norm and a ReLU, down to a quarter of the height and up again.

  The encoder has 32 channels, then 64 and 128, each at stride 2. The decoder doubles the size by
  repeating pixels before a convolution with 64 channels, and again before one with 32; a 1x1
  convolution predicts the classes. It follows Long, Shelhamer and Darrell (CVPR 2015), but is
  smaller and has no skip connections from the encoder to the decoder, so that the model can be cut
  after any stage.

  The height and width of images must be multiples of 4.
  """

  norm: NormSpec
  num_classes: int

  def stages(self) -> Sequence[Stage]:
    """Returns the stages down1, down2, down3, up1, up2, head."""

    def unit(name: str, features: int, stride: int = 1, grow: bool = False) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        if grow:
          x = x.repeat(2, 1).repeat(2, 2)
        settings = (3, 3), self.norm, (stride, stride), "SAME", he_normal
        conv = Conv(features, *settings, name=f"{name}_conv")
        return Norm(self.norm, relu=True, name=f"{name}_norm")(conv(x, mode), mode)

      return name, run

    def head(x: Array, mode: Mode) -> Array:
      conv: nn.Module = Conv(self.num_classes, (1, 1), self.norm, use_bias=True, name="classes")
      return conv(x, mode)

    return (
      unit("down1", 32),
      unit("down2", 64, stride=2),
      unit("down3", 128, stride=2),
      unit("up1", 64, grow=True),
      unit("up2", 32, grow=True),
      ("head", head),
    )
