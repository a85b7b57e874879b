"""Convolution and dense layers, with optional weight normalization of the kernels.

Parameters are float32; a layer computes in the dtype of its input.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.ops.conv import conv
from fedjax_norm.typing import Array, Key

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
# U(-sqrt(3 / fan_in), sqrt(3 / fan_in)): "xavier" in Caffe.
xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
# U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)): the initialization of small networks in FL benchmarks.
benchmark_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Linear(nn.Module, kw_only=True):
  """The base class of layers with a kernel and a bias.

  Under weight normalization (Salimans and Kingma 2016, eq. 2), kernel = g v / |v| for every output
  channel. Without data-dependent initialization, the initial g is |v|, so that the kernel is v.
  With it (eq. 5-6), the pre-activations t = v . x / |v| of one batch give g = 1 / std(t) and the
  bias -mean(t) / std(t).

  Attributes:
    uniform_bias: whether biases are initially U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)), as PyTorch's,
      instead of 0.
  """

  uniform_bias: bool = False

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
    """Creates the layer's parameters and returns linear(x, kernel) + bias.

    Args:
      x: input of the layer.
      shape: shape of the kernel, output channels last.
      linear: (x, kernel) -> output; must be linear in the kernel for data-dependent initialization.
      spec: norm of the model, which determines whether the kernel is weight-normalized.
      kernel_init: initializer of the kernel, or of v under weight normalization.
      use_bias: whether the layer has a bias.
      mode: settings of the forward pass.
    """
    v = self.param("kernel", kernel_init, shape)

    def uniform(key: Key, size: tuple[int]) -> Array:
      bound = 1 / math.sqrt(math.prod(shape[:-1]))
      return jax.random.uniform(key, size, minval=-bound, maxval=bound)

    bias_init = uniform if self.uniform_bias else nn.initializers.zeros
    bias = self.param("bias", bias_init, shape[-1:]) if use_bias else None

    def affine(kernel: Array, bias: Array | None) -> Array:
      y = linear(x, kernel.astype(x.dtype))
      # The bias is added in float32, because its gradient is a sum over the batch.
      return y if bias is None else (y.astype(bias.dtype) + bias).astype(x.dtype)

    if not spec.weight_norm:
      return affine(v, bias)
    length = jnp.sqrt((v**2).sum(tuple(range(v.ndim - 1))))
    g = self.param("kernel_scale", lambda _: length)
    if mode.data_init and not self.is_initializing():
      t = affine(v / length, None).astype(length.dtype)
      examples = tuple(range(t.ndim - 1))
      mean, std = t.mean(examples), t.std(examples)
      # Units that are constant on this batch, up to rounding, keep their scale.
      varies = std > 1e-5 * jnp.abs(mean)
      g = jnp.where(varies, 1 / jnp.where(varies, std, 1.0), g)
      self.put_variable("params", "kernel_scale", g)
      if bias is not None:
        bias = -mean * g
        self.put_variable("params", "bias", bias)
    return affine(v * (g / length), bias)

  def macs(self, x: Array, y: Array) -> int:
    """Returns the number of multiply-adds that compute y from x."""
    raise NotImplementedError


class Conv(Linear):
  """A convolution; by default it has a bias only if no norm (which has a bias) follows.

  Attributes:
    features: number of output channels.
    kernel_size: (rows, columns).
    spec: norm of the model.
    strides: (rows, columns).
    padding: ``'SAME'``, ``'VALID'`` or explicit padding.
    kernel_init: initializer of the kernel, or of v under weight normalization.
    use_bias: whether the layer has a bias; None for the default.
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
    """Maps [N, H, W, I] to [N, H', W', features]."""
    use_bias = not self.spec.normalizes if self.use_bias is None else self.use_bias

    def linear(x: Array, kernel: Array) -> Array:
      lowering = "xla" if mode.count_flops or mode.shared_kernels else None
      return conv(x, kernel, self.strides, self.padding, lowering=lowering)

    shape = (*self.kernel_size, x.shape[-1], self.features)
    return self.weighted(x, shape, linear, self.spec, self.kernel_init, use_bias, mode)

  def macs(self, x: Array, y: Array) -> int:
    """Returns the number of multiply-adds that compute y from x, including those with padding."""
    return y.size * math.prod(self.kernel_size) * x.shape[-1]


class Dense(Linear):
  """A dense layer with a bias; no norm follows dense layers in these models.

  Attributes:
    features: number of output units.
    spec: norm of the model.
    kernel_init: initializer of the kernel, or of v under weight normalization.
  """

  features: int
  spec: NormSpec
  kernel_init: nn.initializers.Initializer = benchmark_uniform

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """Maps [N, I] to [N, features]."""
    shape = (x.shape[-1], self.features)
    return self.weighted(x, shape, jnp.matmul, self.spec, self.kernel_init, True, mode)

  def macs(self, x: Array, y: Array) -> int:
    """Returns the number of multiply-adds: one per pair of an input unit and an output unit."""
    return y.size * x.shape[-1]
