"""Gaia (Hsieh et al. 2017; paper 004, Alg. 1): updates are shared once they are significant."""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.algorithms.base import Algorithm
from fedjax_norm.algorithms.residual import residual_algorithm
from fedjax_norm.algorithms.worker import check_steps
from fedjax_norm.data.federated import Transform
from fedjax_norm.local import LocalConfig
from fedjax_norm.nodes import Nodes
from fedjax_norm.typing import Array, Key


@dataclasses.dataclass(frozen=True)
class GaiaConfig:
  """What Gaia does; the threshold is data (``Context.theta``).

  Attributes:
    local: a partition's batch and its SGD.
    batch_stats: how running statistics are combined: ``local`` leaves them with the partition, as
      its model stays there too; ``mean`` or ``moments`` combine them each step.
  """

  local: LocalConfig = dataclasses.field(default_factory=LocalConfig)
  batch_stats: str = "mean"

  def __post_init__(self):
    check_steps(self.local, self.batch_stats)


def significant(v: Array, w: Array, threshold: Array, key: Key | None = None) -> Array:
  """Which accumulated updates are shared: |v / w| > T_t; those of a weight of 0 always are."""
  del key
  return (jnp.abs(v) > threshold * jnp.abs(w)) | (w == 0)


def gaia(
  model: nn.Module,
  config: GaiaConfig,
  nodes: Nodes,
  transform: Transform,
  image_shape: tuple[int, int, int],
) -> Algorithm:
  """Gaia; a round is one step of every partition, which keeps its own model w_k:

    u_k <- m u_k - eta grad f(w_k, b);  w_k <- w_k + u_k;  v_k <- v_k + u_k
    S <- |v_k / w_k| > T_t
    send v_k S to the others;  v_k <- v_k not S
    w_k <- w_k + what the others sent

  The updates of all partitions add up. ``Context.theta`` is T_t, which falls with the learning rate
  (``control.Dial``). The global model is the mean of the partitions'.

  Args:
    model: the model, unbound to any axis.
    config: what it does.
    nodes: how partitions are mapped.
    transform: of their images.
    image_shape: (H, W, C).

  Raises:
    UserError: options that the model's norm denies.
  """
  return residual_algorithm(
    model,
    config.local,
    config.batch_stats,
    nodes,
    transform,
    image_shape,
    significant,
    own_models=True,
    clears_momentum=False,
  )
