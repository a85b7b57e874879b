"""The flax layer that all norms share, and the settings of a forward pass."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.norm.normalize import Running, normalize, update_running
from fedjax_norm.norm.spec import NormSpec
from fedjax_norm.objectives import Objective
from fedjax_norm.typing import Array


class Mode(NamedTuple):
  """The settings of a forward pass, passed to every layer.

  Attributes:
    train: whether the pass is for training (statistics of the batch, dropout), not for evaluation.
    dropout: whether training uses dropout; False when running statistics are recomputed.
    mask: [N], 0 for padding examples, else 1; None if there are none.
    step: current time, in the unit of batch renormalization's ramps (see ``norm.Renorm``).
    data_init: whether weight-normalized layers set their scale and bias from this batch.
    labels: targets of the batch in training, for models with auxiliary losses (see
      ``local_training.make_gradient``).
    objective: training objective: a name in ``objectives.OBJECTIVES``, or a user-defined objective.
    count_flops: whether convolutions use XLA's default lowering and recurrent networks are
      unrolled, so that XLA counts their operations correctly (see ``models/flops.py``).
    shared_kernels: whether the clients that vmap runs together have the same kernels, and the sum
      of their losses is differentiated. Convolutions then use XLA's default lowering, so that each
      of their parts, the kernel gradient included, is one convolution of all clients' images.
  """

  train: bool = False
  dropout: bool = True
  mask: Array | None = None
  step: Array | None = None
  data_init: bool = False
  labels: Array | None = None
  objective: str | Objective = "classification"
  count_flops: bool = False
  shared_kernels: bool = False


class Norm(nn.Module):
  """Normalizes activations [N, *S, C] as ``spec`` says; a spec without axes does not change them.

  With ``relu``, a ReLU follows, which costs no additional pass over the activation.

  The parameters are ``scale`` (gamma) and ``bias`` (beta), [C]. For a norm with running statistics,
  the collection ``batch_stats`` contains ``mean`` and ``var``, one per group of channels. If the
  collection ``moments`` is mutable, the moments of the batch are written to it.
  """

  spec: NormSpec
  relu: bool = False

  @nn.compact
  def __call__(self, x: Array, mode: Mode) -> Array:
    """Returns the normalized activation [N, *S, C]."""
    spec = self.spec
    if not spec.normalizes:
      return jax.nn.relu(x) if self.relu else x
    channels = x.shape[-1]
    gamma = self.param("scale", nn.initializers.ones, (channels,)) if spec.scale else None
    beta = self.param("bias", nn.initializers.zeros, (channels,))
    groups = (spec.num_groups(channels),)
    if not spec.has_running_statistics:
      return normalize(x, spec, gamma, beta, None, train=mode.train, relu=self.relu)[0]
    mean = self.variable("batch_stats", "mean", jnp.zeros, groups)
    var = self.variable("batch_stats", "var", jnp.ones, groups) if spec.scale else None
    running = Running(mean.value, var.value if var is not None else None)
    y, moments = normalize(
      x,
      spec,
      gamma,
      beta,
      running,
      train=mode.train,
      mask=mode.mask,
      step=mode.step,
      relu=self.relu,
    )
    if moments is None or self.is_initializing():
      return y
    if self.is_mutable_collection("moments"):
      flat = moments._replace(mean=moments.mean.reshape(groups), m2=moments.m2.reshape(groups))
      self.put_variable("moments", "batch", flat)
    if self.is_mutable_collection("batch_stats"):
      after = update_running(running, moments, spec.decay)
      mean.value = after.mean
      if var is not None:
        var.value = after.var
    return y
