"""The flax layer of every normalization."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.norm.apply import Running, normalize, updated
from fedjax_norm.norm.spec import NormSpec
from fedjax_norm.objectives import Objective
from fedjax_norm.typing import Array


class Mode(NamedTuple):
  """How a forward pass is meant; every layer gets it.

  Attributes:
    train: training's statistics and dropout, or evaluation's.
    dropout: whether training drops units; statistics are recalibrated without.
    mask: [N], 0 for padded examples.
    step: the time so far, for batch renormalization's ramps.
    data_init: whether weight-normalized layers set their scale and bias from this batch.
    labels: the batch's targets in training, for the models that have losses of their own (see
      ``local_training.make_gradient``).
    objective: a name of ``objectives.OBJECTIVES`` or the user's own, what the labels are.
    plain: whether convolutions are XLA's own on every platform and recurrent networks no loops, as
      a count of operations needs them (see ``models/flops.py``).
  """

  train: bool = False
  dropout: bool = True
  mask: Array | None = None
  step: Array | None = None
  data_init: bool = False
  labels: Array | None = None
  objective: str | Objective = "classification"
  plain: bool = False


class Norm(nn.Module):
  """Normalizes x[N, *S, C] as its spec says; the identity when the spec does not normalize.

  Parameters ``scale`` (gamma) and ``bias`` (beta), [C]. Collection ``batch_stats`` holds ``mean``
  and ``var``, [G], of a spec with running statistics. Where the collection ``moments`` is mutable,
  the batch's own moments are written to it.
  """

  spec: NormSpec

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """Normalizes [N, *S, C]."""
    spec = self.spec
    if not spec.normalizes:
      return x
    channels = x.shape[-1]
    gamma = self.param("scale", nn.initializers.ones, (channels,)) if spec.scale else None
    beta = self.param("bias", nn.initializers.zeros, (channels,))
    groups = (spec.num_groups(channels),)
    if not spec.has_running_statistics:
      return normalize(x, spec, gamma, beta, None, train=mode.train)[0]
    mean = self.variable("batch_stats", "mean", jnp.zeros, groups)
    var = self.variable("batch_stats", "var", jnp.ones, groups) if spec.scale else None
    running = Running(mean.value, var.value if var is not None else None)
    y, moments = normalize(
      x, spec, gamma, beta, running, train=mode.train, mask=mode.mask, step=mode.step
    )
    if moments is None or self.is_initializing():
      return y
    if self.is_mutable_collection("moments"):
      flat = moments._replace(mean=moments.mean.reshape(groups), m2=moments.m2.reshape(groups))
      self.put_variable("moments", "batch", flat)
    if self.is_mutable_collection("batch_stats"):
      after = updated(running, moments, spec.decay)
      mean.value = after.mean
      if var is not None:
        var.value = after.var
    return y
