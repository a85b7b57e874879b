"""Gaia (Hsieh et al. 2017; paper 004, Alg. 1): updates are shared once they are significant."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fedjax_norm.algorithms.contract import Method, Setup, Theta
from fedjax_norm.algorithms.residual_updates import residual_algorithm
from fedjax_norm.algorithms.round_algorithm import Algorithm
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
    "Initial threshold T_0 of Gaia (paper 004, Alg. 1): a client sends the accumulated update of a "
    "weight once it exceeds this share of the weight. The threshold falls with the learning rate.",
    least=0,
    needs="skewscout=off,measure",
  )

  def statistics_policy(self, spec: NormSpec) -> str:
    """Returns ``batch_stats``, or its default: local, as the models, if the norm allows it."""
    needs_global = spec.across_clients or spec.freezes_statistics
    local = spec.updates_running_statistics and spec.scale and not needs_global
    return self.batch_stats or ("local" if local else "mean")


def significant(v: Array, w: Array, threshold: Array, key: Key | None = None) -> Array:
  """Returns a mask of the updates v to send: |v / w| > threshold, and all where a weight w is 0."""
  del key
  return (jnp.abs(v) > threshold * jnp.abs(w)) | (w == 0)


def gaia(config: GaiaConfig, setup: Setup) -> Algorithm:
  """Makes Gaia; a round is one step of every client k, which has a local model w_k:

    u_k <- m u_k - eta grad f(w_k, b);  w_k <- w_k + u_k;  v_k <- v_k + u_k
    S <- |v_k / w_k| > T_t   (a mask)
    send v_k S to the other clients;  v_k <- v_k not S
    w_k <- w_k + updates from the other clients

  m is the momentum, eta the learning rate, b a batch, v_k the updates not sent yet, and the
  threshold T_t is ``theta``. The global model is the mean of the clients' models.
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
