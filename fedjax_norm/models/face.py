"""The face network of paper 004, sec. 4.2, and its centre loss (Wen et al., ECCV 2016)."""

import functools
from collections.abc import Sequence

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
  """max(0, x) + slope min(0, x), with a slope for each channel that starts at 0.25."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., C] -> the same."""
    slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
    return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


class Trunk(Staged):
  """From an image to its embedding (see :class:`Face`)."""

  norm: NormSpec
  blocks: tuple[int, ...]
  channels: tuple[int, ...]
  embedding: int

  def stages(self) -> Sequence[Stage]:
    """stem, conv1, unit1_1, ..., conv2, unit2_1, ..., embedding."""

    def layer(index: int, features: int, x: Array, mode: Mode, **options) -> Array:
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
    index = 1  # of the next convolution
    for size, (features, units) in enumerate(zip(self.channels, self.blocks, strict=True), 1):
      stages.append((f"conv{size}", functools.partial(conv, index, features)))
      for i in range(units):
        run = functools.partial(unit, index + 1 + 2 * i, features)
        stages.append((f"unit{size}_{i + 1}", run))
      index += 1 + 2 * units
    return *stages, ("embedding", embedding)


class Face(Staged):
  """A residual network whose embeddings of one identity gather around a centre.

  The network is the one that Wen et al. released with their code, of 27 convolutions: 3x3 with 32
  and 64 channels, then stages of 64, 128, 256 and 512 channels, each a 2x2 max pool, 1, 2, 5 or 3
  residual units of two convolutions, and a convolution to the channels of the next; a dense layer
  makes the embedding of 512. PReLU follows every convolution, after the norm that we add there, and
  nothing follows a unit's sum. (That paper 004 trained it is read off its table 4, whose epochs and
  rates are those of the released solver.) Two things differ: the convolutions that change the
  channels are padded too, so that images from 16 pixels on fit, and weight decay and the rate are
  the same for all parameters. As the last layers see 512 channels at every place, unaveraged, a
  norm that keeps these large wants a far lower rate than the network without one (0.002 where 0.05
  served).

  The classifier on top serves training alone. In training with labels the model adds to the
  cross-entropy, in the collection ``losses``, the centre loss with the centres as parameters.

  Attributes:
    norm: the norm after every convolution.
    num_classes: the identities of the training set.
    blocks: residual units of each stage.
    channels: of each stage; the first convolution has half of the first.
    embedding: D.
    center_weight: lambda; Wen et al. choose 0.003.
    center_rate: alpha, which multiplies the rate of SGD here (the released code does so too, with
      an alpha of 1); 0.5 in the paper, where the centres move by alpha alone.
  """

  norm: NormSpec
  num_classes: int
  blocks: tuple[int, ...] = (1, 2, 5, 3)
  channels: tuple[int, ...] = (64, 128, 256, 512)
  embedding: int = 512
  center_weight: float = 0.003
  center_rate: float = 0.5

  def setup(self):
    """Makes the trunk, which several stages run parts of."""
    self.trunk = self._make_trunk()

  def _make_trunk(self) -> Trunk:
    return Trunk(self.norm, self.blocks, self.channels, self.embedding, parent=None)

  def stages(self) -> Sequence[Stage]:
    """Those of the trunk and head."""

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
    """[N, H, W, I] -> the embeddings [N, D], which verification compares."""
    return self(x, mode, end=-1)


def center_loss(
  embeddings: Array, labels: Array, mask: Array | None, centers: Array, weight: float, rate: float
) -> Array:
  """lambda / 2 sum_i |x_i - c_{y_i}|^2 over real examples (Wen et al. 2016, eq. 2).

  Its gradient is divided by their number n with that of the cross-entropy. What reaches an
  embedding is then that of eq. 3 in its share of the mean, lambda (x_i - c_{y_i}) / n. What reaches
  a centre is no derivative of the loss but the step of eq. 4, which n multiplies beforehand so that
  it arrives whole,

    alpha sum_i [y_i = j] (c_j - x_i) / (1 + sum_i [y_i = j]).

  Of a batch taken in parts it is the parts' mean, weighted by their examples.

  Args:
    embeddings: x, [N, D].
    labels: y, [N] int32.
    mask: [N], 0 for padded examples; None has all real.
    centers: c, [C, D] float32.
    weight: lambda.
    rate: alpha.

  Returns:
    The loss's value, float32.
  """
  real = jnp.ones(len(labels)) if mask is None else (mask > 0).astype(jnp.float32)
  x, own = embeddings.astype(jnp.float32), centers[labels]
  fixed = jax.lax.stop_gradient

  def square(x: Array, own: Array) -> Array:
    return jnp.where(real > 0, ((x - own) ** 2).sum(-1), 0) / 2

  same = (labels[:, None] == labels).astype(jnp.float32) @ real  # [N], those of one's own identity
  pull = real.sum() * (square(fixed(x), own) / (1 + same)).sum()
  # The second part has the gradient of the centres and no value.
  return weight * square(x, fixed(own)).sum() + rate * (pull - fixed(pull))
