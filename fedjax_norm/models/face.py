"""The face network of paper 004, sec. 4.2, with the centre loss (Wen et al. 2016)."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.models.blocks import halve
from fedjax_norm.models.layers import Conv, Dense, xavier
from fedjax_norm.models.stages import Stage, Staged, stage_names
from fedjax_norm.norm import Mode, Norm, NormSpec
from fedjax_norm.typing import Array

_centers_init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform", in_axis=1, out_axis=0)
_small = nn.initializers.normal(0.01)


class PReLU(nn.Module):
  """max(0, x) + slope min(0, x), with a trainable slope per channel, initially 0.25."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [..., C] to [..., C]."""
    slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
    return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


class Trunk(Staged):
  """The layers of :class:`Face` that compute the embeddings of images."""

  norm: NormSpec
  blocks: tuple[int, ...]
  channels: tuple[int, ...]
  embedding: int

  def stages(self) -> Sequence[Stage]:
    """Returns the stages stem, conv1, unit1_1, ..., conv2, unit2_1, ..., embedding."""

    def layer(index: int, features: int, x: Array, mode: Mode, **options: Any) -> Array:
      options = {"kernel_init": xavier, **options}
      x = Conv(features, (3, 3), self.norm, name=f"Conv_{index}", **options)(x, mode)
      return PReLU(name=f"PReLU_{index}")(Norm(self.norm, name=f"Norm_{index}")(x, mode))

    def stem(x: Array, mode: Mode) -> Array:
      return layer(0, self.channels[0] // 2, x, mode)

    def conv(index: int, features: int, x: Array, mode: Mode) -> Array:
      return halve(layer(index, features, x, mode), 2)

    def unit(index: int, features: int, x: Array, mode: Mode) -> Array:
      y = layer(index, features, x, mode, kernel_init=_small, use_bias=False)
      return x + layer(index + 1, features, y, mode, kernel_init=_small, use_bias=False)

    def embedding(x: Array, mode: Mode) -> Array:
      dense = Dense(self.embedding, self.norm, xavier, name="Dense_0")
      return dense(x.reshape(len(x), -1), mode)

    stages: list[Stage] = [("stem", stem)]
    index = 1  # index of the next convolution
    for size, (features, units) in enumerate(zip(self.channels, self.blocks, strict=True), 1):
      stages.append((f"conv{size}", functools.partial(conv, index, features)))
      for i in range(units):
        run = functools.partial(unit, index + 1 + 2 * i, features)
        stages.append((f"unit{size}_{i + 1}", run))
      index += 1 + 2 * units
    return *stages, ("embedding", embedding)


class Face(Staged):
  """A residual network that is trained to move the embeddings of each identity towards a centre.

  The network has the 27 convolutions of the code that Wen et al. released: 3x3 with 32 and 64
  channels, then stages of 64, 128, 256 and 512 channels. Each stage is a 2x2 max pool, 1, 2, 5 or 3
  residual units of two convolutions, and a convolution to the channels of the next stage. A dense
  layer computes the embedding of size 512. Every convolution is followed by a norm (which we add)
  and a PReLU; the sums of the units are not followed by an activation. (Paper 004 must have trained
  this network, because the epochs and learning rates in its table 4 are those in the released
  code.) Two things differ from that code: convolutions that change the number of channels are also
  padded, so that images of 16 pixels or more are accepted, and all parameters have the same weight
  decay and learning rate. The dense layer reads all positions of the image, without averaging, so
  with a norm that keeps activations large, the learning rate must be far lower than without a norm
  (0.002 instead of 0.05).

  The classifier is used only in training. In training with labels, the model adds the centre loss
  to the cross-entropy, through the flax collection ``losses``. The centres are parameters.

  Attributes:
    num_classes: number of identities in the training set.
    blocks: number of residual units of each stage.
    channels: channels of each stage; the first convolution has half as many as the first stage.
    embedding: size D of the embeddings.
    center_weight: weight lambda of the centre loss; 0.003 in Wen et al.
    center_rate: alpha, which multiplies SGD's learning rate for the centres (as in the released
      code, where alpha is 1); in Wen et al., it is the learning rate of the centres, 0.5.
  """

  norm: NormSpec
  num_classes: int
  blocks: tuple[int, ...] = (1, 2, 5, 3)
  channels: tuple[int, ...] = (64, 128, 256, 512)
  embedding: int = 512
  center_weight: float = 0.003
  center_rate: float = 0.5

  def setup(self) -> None:
    """Creates the trunk (all layers before the classifier), of which each stage runs a part."""
    self.trunk = self._make_trunk()

  def _make_trunk(self) -> Trunk:
    return Trunk(self.norm, self.blocks, self.channels, self.embedding, parent=None)

  def stages(self) -> Sequence[Stage]:
    """Returns the stages of the trunk, and head (the classifier)."""

    def part(index: int, x: Array, mode: Mode) -> Array:
      return self.trunk(x, mode, index, index + 1)

    def head(embeddings: Array, mode: Mode) -> Array:
      centers = self.param("centers", _centers_init, (self.num_classes, self.embedding))
      if mode.train and mode.labels is not None:
        loss = center_loss(
          embeddings, mode.labels, mode.mask, centers, self.center_weight, self.center_rate
        )
        self.sow("losses", "centers", loss)
      return Dense(self.num_classes, self.norm, xavier, name="classifier")(embeddings, mode)

    names = stage_names(self._make_trunk())
    parts = ((name, functools.partial(part, index)) for index, name in enumerate(names))
    return *parts, ("head", head)

  def embed(self, x: Array, mode: Mode) -> Array:
    """Computes the embeddings that verification compares: images [N, H, W, C] -> [N, D]."""
    return self(x, mode, end=-1)


def center_loss(
  embeddings: Array, labels: Array, mask: Array | None, centers: Array, weight: float, rate: float
) -> Array:
  """Returns lambda / 2 sum_i |x_i - c_{y_i}|^2 over the n examples that are not padding, float32.

  This is eq. 2 of Wen et al. 2016. The trainer divides the gradient by n. The gradient of an
  embedding is then that of eq. 3, lambda (x_i - c_{y_i}) / n. The gradient of a centre is not the
  derivative of the loss but the step of eq. 4, multiplied by n to cancel the division:

    alpha sum_i [y_i = j] (c_j - x_i) / (1 + sum_i [y_i = j]).

  With ``--accumulate``, it is the mean of the steps of the batch's parts, weighted by examples.

  Args:
    embeddings: embeddings x, [N, D].
    labels: identities y, [N] int32.
    mask: [N], 0 for padding examples; None if there are none.
    centers: centres c, [C, D] float32.
    weight: weight lambda of the loss.
    rate: factor alpha of the centres' steps.
  """
  real = jnp.ones(len(labels)) if mask is None else (mask > 0).astype(jnp.float32)
  x, targets = embeddings.astype(jnp.float32), centers[labels]
  fixed = jax.lax.stop_gradient

  def square(x: Array, targets: Array) -> Array:
    return jnp.where(real > 0, ((x - targets) ** 2).sum(-1), 0) / 2

  same = (labels[:, None] == labels).astype(jnp.float32) @ real  # [N], examples of the identity
  pull = real.sum() * (square(fixed(x), targets) / (1 + same)).sum()
  # The second term is 0 and has the gradient of the centres.
  return weight * square(x, fixed(targets)).sum() + rate * (pull - fixed(pull))
