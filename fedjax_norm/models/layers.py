"""Convolution and dense layers, with weight normalization as a form of their kernels.

Parameters are float32; a layer computes in the dtype of the activation it is given.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.ops.conv import conv
from fedjax_norm.typing import Array

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
# U(-sqrt(3 / fan_in), sqrt(3 / fan_in)): what Caffe calls xavier.
xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
# U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)): what the small networks of FL benchmarks start from.
benchmark_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Linear(nn.Module):
  """What layers with a kernel share: its parameterization and the bias.

  Weight normalization (Salimans and Kingma 2016, eq. 2): kernel = g v / |v| for every output
  channel. Without data-dependent initialization g starts as |v|, so that the kernel starts as v.
  With it (eq. 5-6), the pre-activations t = v . x / |v| of one batch give g = 1 / std(t) and
  b = -mean(t) / std(t).
  """

  def weighted(
    self,
    x: Array,
    shape: tuple[int, ...],
    linear: Callable[[Array, Array], Array],
    spec: NormSpec,
    kernel_init: nn.initializers.Initializer,
    use_bias: bool,
    mode: Mode,
  ) -> Array:
    """linear(x, kernel) + bias.

    Args:
      x: the activation.
      shape: of the kernel, output channels last.
      linear: (x, kernel) -> the output; linear in the kernel if there is to be a data-dependent
        initialization.
      spec: whether the kernel is weight-normalized.
      kernel_init: of the kernel, or of v.
      use_bias: whether there is a bias.
      mode: of the pass.
    """
    v = self.param("kernel", kernel_init, shape)
    bias = self.param("bias", nn.initializers.zeros, (shape[-1],)) if use_bias else None

    def affine(kernel: Array, bias: Array | None) -> Array:
      y = linear(x, kernel.astype(x.dtype))
      # Added in float32, for the bias's gradient is a sum over the batch.
      return y if bias is None else (y.astype(bias.dtype) + bias).astype(x.dtype)

    if not spec.weight_norm:
      return affine(v, bias)
    length = jnp.sqrt((v**2).sum(tuple(range(v.ndim - 1))))
    g = self.param("kernel_scale", lambda _: length)
    if mode.data_init and not self.is_initializing():
      t = affine(v / length, None).astype(length.dtype)
      examples = tuple(range(t.ndim - 1))
      mean, std = t.mean(examples), t.std(examples)
      # A unit that this batch leaves constant, up to rounding, keeps its scale.
      varies = std > 1e-5 * jnp.abs(mean)
      g = jnp.where(varies, 1 / jnp.where(varies, std, 1.0), g)
      self.put_variable("params", "kernel_scale", g)
      if bias is not None:
        bias = -mean * g
        self.put_variable("params", "bias", bias)
    return affine(v * (g / length), bias)

  def macs(self, x: Array, y: Array) -> int:
    """The multiply-adds that take x to y."""
    raise NotImplementedError


class Conv(Linear):
  """A convolution; it has a bias of its own unless a norm follows that brings one.

  Attributes:
    features: output channels.
    kernel_size: rows, columns.
    spec: the model's norm.
    strides: rows, columns.
    padding: ``'SAME'``, ``'VALID'`` or explicit pads.
    kernel_init: of the kernel, or of v under weight normalization.
    use_bias: overrides whether there is a bias.
  """

  features: int
  kernel_size: tuple[int, int]
  spec: NormSpec
  strides: tuple[int, int] = (1, 1)
  padding: str | tuple[tuple[int, int], tuple[int, int]] = "SAME"
  kernel_init: nn.initializers.Initializer = benchmark_uniform
  use_bias: bool | None = None

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """[N, H, W, I] -> [N, H', W', features]."""
    use_bias = not self.spec.normalizes if self.use_bias is None else self.use_bias

    def linear(x: Array, kernel: Array) -> Array:
      lowering = "xla" if mode.count_flops else None
      return conv(x, kernel, self.strides, self.padding, lowering=lowering)

    shape = (*self.kernel_size, x.shape[-1], self.features)
    return self.weighted(x, shape, linear, self.spec, self.kernel_init, use_bias, mode)

  def macs(self, x: Array, y: Array) -> int:
    """Every place of the window counts, padding too."""
    return y.size * math.prod(self.kernel_size) * x.shape[-1]


class Dense(Linear):
  """A dense layer with a bias; no norm of activations follows it in these models.

  Attributes:
    features: output units.
    spec: the model's norm.
    kernel_init: of the kernel, or of v under weight normalization.
  """

  features: int
  spec: NormSpec
  kernel_init: nn.initializers.Initializer = benchmark_uniform

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """[N, I] -> [N, features]."""
    shape = (x.shape[-1], self.features)
    return self.weighted(x, shape, jnp.matmul, self.spec, self.kernel_init, True, mode)

  def macs(self, x: Array, y: Array) -> int:
    """An input and an output unit each."""
    return y.size * x.shape[-1]
