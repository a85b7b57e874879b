"""Small networks: ``tiny`` (digits), ``lenet`` (paper 004), ``lenet5`` (MNIST, paper 003), ``cnn``
(FL benchmarks), ``niid`` (NIID-Bench)."""

import functools
from collections.abc import Sequence

import jax

from fedjax_norm.models.blocks import dropout, halve
from fedjax_norm.models.layers import Conv, Dense, xavier
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, Norm, NormSpec
from fedjax_norm.ops.pool import avg_pool, ceil_pads, max_pool
from fedjax_norm.typing import Array


class Tiny(Staged):
  """3x3 convolutions with 32, 64 (at stride 2) and 64 channels, a mean pool and a dense layer."""

  norm: NormSpec
  num_classes: int

  def stages(self) -> Sequence[Stage]:
    """Returns the stages conv1, conv2, conv3, head."""

    def unit(index: int, features: int, stride: int) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        strides = (stride, stride)
        x = Conv(features, (3, 3), self.norm, strides=strides, name=f"Conv_{index}")(x, mode)
        return Norm(self.norm, relu=True, name=f"Norm_{index}")(x, mode)

      return f"conv{index + 1}", run

    def head(x: Array, mode: Mode) -> Array:
      return Dense(self.num_classes, self.norm, name="Dense_0")(x.mean((1, 2)), mode)

    return (unit(0, 32, 1), unit(1, 64, 2), unit(2, 64, 1), ("head", head))


class LeNet(Staged):
  """Caffe's cifar10_quick, the LeNet of paper 004, with a norm after each convolution (BN-LeNet).

  Three 5x5 convolutions (32, 32, 64 channels), each followed by a 3x3 pool at stride 2 (max, mean,
  mean, sizes rounded up as in Caffe), then a dense layer of 64 units and the output. As in Caffe's
  network, no activation is between the two dense layers, and the first pool is before the ReLU.
  """

  norm: NormSpec
  num_classes: int

  def stages(self) -> Sequence[Stage]:
    """Returns the stages conv1, conv2, conv3, dense, head."""

    def unit(index: int, features: int) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        x = Conv(features, (5, 5), self.norm, name=f"Conv_{index}")(x, mode)
        x = Norm(self.norm, relu=index > 0, name=f"Norm_{index}")(x, mode)
        if index == 0:
          return jax.nn.relu(halve(x))
        return avg_pool(x, 3, 2, ceil_pads(x.shape[1:3], 3, 2))

      return f"conv{index + 1}", run

    def dense(x: Array, mode: Mode) -> Array:
      return Dense(64, self.norm, name="Dense_0")(x.reshape(len(x), -1), mode)

    def head(x: Array, mode: Mode) -> Array:
      return Dense(self.num_classes, self.norm, name="Dense_1")(x, mode)

    return unit(0, 32), unit(1, 32), unit(2, 64), ("dense", dense), ("head", head)


class LeNet5(Staged):
  """Caffe's LeNet for MNIST (431,080 parameters on 28x28x1 without a norm).

  After LeCun et al. 1998: two 5x5 convolutions without padding (20 and 50 channels), each followed
  by the norm and a 2x2 max pool, rounded up; a dense layer of 500 units with the only ReLU of the
  network; the output. Kernels have Caffe's xavier initialization.
  """

  norm: NormSpec
  num_classes: int

  def stages(self) -> Sequence[Stage]:
    """Returns the stages conv1, conv2, dense, head."""

    def unit(index: int, features: int) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        settings = (5, 5), self.norm, (1, 1), "VALID", xavier
        layer = Conv(features, *settings, name=f"Conv_{index}")
        x = Norm(self.norm, name=f"Norm_{index}")(layer(x, mode), mode)
        return halve(x, 2)

      return f"conv{index + 1}", run

    def dense(x: Array, mode: Mode) -> Array:
      layer = Dense(500, self.norm, xavier, name="Dense_0")
      return jax.nn.relu(layer(x.reshape(len(x), -1), mode))

    def head(x: Array, mode: Mode) -> Array:
      return Dense(self.num_classes, self.norm, xavier, name="Dense_1")(x, mode)

    return unit(0, 20), unit(1, 50), ("dense", dense), ("head", head)


class CNN(Staged):
  """The two-convolution network of FL benchmarks (1,626,442 parameters on CIFAR-10 without a norm).

  3x3 convolutions without padding with 32 and 64 channels, a 2x2 max pool, dropout 0.25, a dense
  layer of 128 units, dropout 0.5 and the output.
  """

  norm: NormSpec
  num_classes: int

  def stages(self) -> Sequence[Stage]:
    """Returns the stages conv1, conv2, dense, head."""

    def unit(index: int, features: int) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        x = Conv(features, (3, 3), self.norm, padding="VALID", name=f"Conv_{index}")(x, mode)
        x = Norm(self.norm, relu=True, name=f"Norm_{index}")(x, mode)
        return dropout(max_pool(x, 2, 2), 0.25, mode, "Dropout_0") if index else x

      return f"conv{index + 1}", run

    def dense(x: Array, mode: Mode) -> Array:
      x = jax.nn.relu(Dense(128, self.norm, name="Dense_0")(x.reshape(len(x), -1), mode))
      return dropout(x, 0.5, mode, "Dropout_1")

    def head(x: Array, mode: Mode) -> Array:
      return Dense(self.num_classes, self.norm, name="Dense_1")(x, mode)

    return unit(0, 32), unit(1, 64), ("dense", dense), ("head", head)


class NIIDNet(Staged):
  """The convolutional network of NIID-Bench (Li et al. 2022, arXiv 2102.02079).

  It has 62,006 parameters on CIFAR-10 (32x32x3) and 44,426 on MNIST (28x28x1) without a norm: two
  5x5 convolutions without padding (6 and 16 channels), each followed by the norm, a ReLU and a 2x2
  max pool; dense layers of 120 and 84 units with ReLU; the output. Kernels and biases have
  PyTorch's default initialization.
  """

  norm: NormSpec
  num_classes: int

  def stages(self) -> Sequence[Stage]:
    """Returns the stages conv1, conv2, dense1, dense2, head."""

    def unit(index: int, features: int) -> Stage:
      def run(x: Array, mode: Mode) -> Array:
        layer = Conv(
          features, (5, 5), self.norm, padding="VALID", uniform_bias=True, name=f"Conv_{index}"
        )
        x = Norm(self.norm, relu=True, name=f"Norm_{index}")(layer(x, mode), mode)
        return max_pool(x, 2, 2)

      return f"conv{index + 1}", run

    def dense(index: int, x: Array, mode: Mode) -> Array:
      features = (120, 84, self.num_classes)[index]
      layer = Dense(features, self.norm, uniform_bias=True, name=f"Dense_{index}")
      return layer(x.reshape(len(x), -1), mode)

    def hidden(index: int) -> Stage:
      return f"dense{index + 1}", lambda x, mode: jax.nn.relu(dense(index, x, mode))

    head = "head", functools.partial(dense, 2)
    return unit(0, 6), unit(1, 16), hidden(0), hidden(1), head
