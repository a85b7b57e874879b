"""Building blocks that several models share: normalized convolutions, dropout, auxiliary losses."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.models.layers import Conv, Dense, he_normal
from fedjax_norm.models.stages import Stage
from fedjax_norm.norm import Mode, Norm, NormSpec
from fedjax_norm.objectives import find
from fedjax_norm.ops.geometry import Pads
from fedjax_norm.ops.pool import ceil_pads, max_pool
from fedjax_norm.typing import Array


class Unit(nn.Module):
  """A convolution (see ``layers.Conv``) with He initialization, followed by the norm and a ReLU."""

  features: int
  kernel_size: tuple[int, int]
  norm: NormSpec
  stride: int = 1
  padding: str | Pads = "SAME"

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """Maps [N, H, W, I] to [N, H', W', features]."""
    strides = (self.stride, self.stride)
    conv = Conv(self.features, self.kernel_size, self.norm, strides, self.padding, he_normal)
    return Norm(self.norm, relu=True)(conv(x, mode), mode)


def halve(x: Array, size: int = 3) -> Array:
  """Returns the max pool of images at stride 2, with the output size rounded up as in Caffe."""
  return max_pool(x, size, 2, ceil_pads(x.shape[1:3], size, 2))


def dropout(x: Array, rate: float, mode: Mode, name: str | None = None) -> Array:
  """Returns the activation with the share ``rate`` of its units dropped, in training only.

  Must be called within a compact flax module. The random key depends on the layer's name; a layer
  without ``name`` gets a numbered one.
  """
  return nn.Dropout(rate, deterministic=not (mode.train and mode.dropout), name=name)(x)


def sow_loss(module: nn.Module, outputs: Array, weight: float, mode: Mode) -> None:
  """Adds ``weight`` times the sum of the objective's losses to the training loss of the model.

  Without labels, for example when running statistics are recomputed, no loss is added.

  Args:
    module: auxiliary classifier, which sows the loss into the flax collection ``losses``.
    outputs: outputs of the auxiliary classifier, [N, classes], or other outputs of the objective.
    weight: weight of the loss.
    mode: settings of the forward pass, with the labels and the mask of the batch.
  """
  if mode.labels is None:
    return
  losses = find(mode.objective).loss(outputs.astype(jnp.float32), mode.labels)
  real = True if mode.mask is None else mode.mask > 0
  module.sow("losses", "auxiliary", weight * jnp.where(real, losses, 0.0).sum())


def dense_stages(hidden: Sequence[int], num_classes: int, norm: NormSpec) -> tuple[Stage, ...]:
  """Returns the last stages of AlexNet and VGG: dense layers with ReLU and dropout 0.5, and head.

  Args:
    hidden: number of units of each hidden layer; the first hidden layer flattens its input.
    num_classes: number of outputs of the last layer.
    norm: norm of the model, which decides about weight normalization of the dense layers.
  """

  def dense(index: int, features: int) -> Stage:
    def run(x: Array, mode: Mode) -> Array:
      layer = Dense(features, norm, he_normal, name=f"Dense_{index}")
      x = jax.nn.relu(layer(x.reshape(len(x), -1), mode))
      return dropout(x, 0.5, mode, f"Dropout_{index}")

    return f"dense{index + 1}", run

  def head(x: Array, mode: Mode) -> Array:
    return Dense(num_classes, norm, name=f"Dense_{len(hidden)}")(x, mode)

  return *(dense(index, units) for index, units in enumerate(hidden)), ("head", head)
