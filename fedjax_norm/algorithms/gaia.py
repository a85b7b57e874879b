"""Gaia (Hsieh et al. 2017; paper 004, Alg. 1): updates are shared once they are significant."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fedjax_norm.algorithms.algorithm import Algorithm
from fedjax_norm.algorithms.contract import Method, Setup, Theta
from fedjax_norm.algorithms.residual import residual_algorithm
from fedjax_norm.local_training import LocalConfig
from fedjax_norm.norm import NormSpec
from fedjax_norm.options import option
from fedjax_norm.typing import Array, Key


@dataclasses.dataclass(frozen=True)
class GaiaConfig(LocalConfig):
  """Options of Gaia."""

  group = "algorithm"

  threshold: float = option(
    0.1,
    "T_0: accumulated updates above this share of a weight are sent. It falls with the learning "
    "rate.",
    least=0,
    needs="skewscout=off,measure",
  )

  def statistics_policy(self, spec: NormSpec) -> str:
    """Returns ``batch_stats``, or its default: clients have local models, so local statistics."""
    local = (
      spec.updates_running_statistics and not spec.across_clients and not spec.freezes_statistics
    )
    return self.batch_stats or ("local" if local and spec.scale else "mean")


def significant(v: Array, w: Array, threshold: Array, key: Key | None = None) -> Array:
  """Returns which accumulated updates are sent: |v / w| > T_t, and all updates of weights of 0."""
  del key
  return (jnp.abs(v) > threshold * jnp.abs(w)) | (w == 0)


def gaia(config: GaiaConfig, setup: Setup) -> Algorithm:
  """Makes Gaia; a round is one step of every client k, which has a local model w_k:

    u_k <- m u_k - eta grad f(w_k, b);  w_k <- w_k + u_k;  v_k <- v_k + u_k
    S <- |v_k / w_k| > T_t
    send v_k S to the other clients;  v_k <- v_k not S
    w_k <- w_k + updates from the other clients

  The updates of all clients add up. ``theta`` is T_t. The global model is the mean of the clients'
  models.
  """
  return residual_algorithm(config, setup, significant, local_models=True, clears_momentum=False)


GAIA = Method(
  "gaia",
  GaiaConfig,
  gaia,
  "Gaia: clients send the updates that are significant.",
  defaults={"lr": 0.01},
  stepwise=True,
  all_clients=True,
  one_process=True,
  theta=Theta(
    lambda config, rounds: np.full(rounds, config.threshold, np.float32),
    grid=(0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    follows_rate=True,
  ),
)
