"""The small networks: ``tiny`` (digits), ``lenet`` (paper 004) and ``cnn`` (FL benchmarks)."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from fedjax_norm.models.layers import Conv, Dense
from fedjax_norm.models.pool import avg_pool, ceil_pads, max_pool
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, Norm, NormSpec
from fedjax_norm.typing import Array


class Tiny(Staged):
  """Three 3x3 convolutions (32, 64 at stride 2, 64), mean pool, dense."""

  norm: NormSpec
  num_classes: int

  def stages(self) -> Sequence[Stage]:
    """conv1, conv2, conv3, head."""

    def unit(index: int, features: int, stride: int) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        strides = (stride, stride)
        x = Conv(features, (3, 3), self.norm, strides=strides, name=f"Conv_{index}")(x, mode)
        return jax.nn.relu(Norm(self.norm, name=f"Norm_{index}")(x, mode))

      return f"conv{index + 1}", run

    def head(x: Array, mode: Mode) -> Array:
      return Dense(self.num_classes, self.norm, name="Dense_0")(x.mean((1, 2)), mode)

    return (unit(0, 32, 1), unit(1, 64, 2), unit(2, 64, 1), ("head", head))


class LeNet(nn.Module):
  """Caffe's cifar10_quick, the LeNet of paper 004; a norm after each convolution (BN-LeNet).

  Three 5x5 convolutions (32, 32, 64), each followed by a 3x3 pool at stride 2 (max, mean, mean,
  rounded up as Caffe does), then dense 64 and the output; as in Caffe's network, no activation lies
  between the two dense layers, and the first pool comes before its activation.
  """

  norm: NormSpec
  num_classes: int

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """[N, H, W, I] -> logits [N, num_classes]."""
    for index, features in enumerate((32, 32, 64)):
      x = Conv(features, (5, 5), self.norm)(x, mode)
      x = Norm(self.norm)(x, mode)
      pads = ceil_pads(x.shape[1:3], 3, 2)
      if index == 0:
        x = jax.nn.relu(max_pool(x, 3, 2, pads))
      else:
        x = avg_pool(jax.nn.relu(x), 3, 2, pads)
    x = Dense(64, self.norm)(x.reshape(len(x), -1), mode)
    return Dense(self.num_classes, self.norm)(x, mode)


class CNN(nn.Module):
  """The two-convolution network of FL benchmarks (1,626,442 parameters on CIFAR-10 without a norm).

  conv3x3-32, conv3x3-64 (both valid), max pool 2, dropout 0.25, dense 128, dropout 0.5, dense.
  """

  norm: NormSpec
  num_classes: int

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """[N, H, W, I] -> logits [N, num_classes]."""
    for features in (32, 64):
      x = Conv(features, (3, 3), self.norm, padding="VALID")(x, mode)
      x = jax.nn.relu(Norm(self.norm)(x, mode))
    fixed = not (mode.train and mode.dropout)
    x = nn.Dropout(0.25, deterministic=fixed)(max_pool(x, 2, 2))
    x = jax.nn.relu(Dense(128, self.norm)(x.reshape(len(x), -1), mode))
    x = nn.Dropout(0.5, deterministic=fixed)(x)
    return Dense(self.num_classes, self.norm)(x, mode)
