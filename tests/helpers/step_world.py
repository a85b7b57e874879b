"""A small federated data set, and the states of an algorithm after each of its rounds."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fedjax_norm.algorithms.round_algorithm import Algorithm, RoundContext
from fedjax_norm.data.federated import FederatedData, federate
from fedjax_norm.data.partitions.registry import Partition

KEY = jax.random.key(7)


def skewed(source, sizes) -> FederatedData:
  """Returns every second example sorted by label, so that clients have different classes."""
  ids = np.argsort(source.train.labels, kind="stable")[::2]
  return federate(source.train, Partition(ids, np.concatenate([[0], np.cumsum(sizes)])))


def run_rounds(algorithm: Algorithm, variables, data, rates, thetas=None, clients=None):
  """Returns (server states, client states, metrics) of every round, stacked."""
  rows = jnp.arange(data.num_clients) if clients is None else jnp.array(clients)
  thetas = np.zeros_like(rates) if thetas is None else np.asarray(thetas, np.float32)

  @jax.jit
  def run(carry, data):
    def step(carry, item):
      index, rate, theta = item
      context = RoundContext(data, index, rate, KEY, theta)
      server, states, metrics = algorithm.round(*carry, rows, context)
      return (server, states), (server, states, metrics)

    return lax.scan(step, carry, (jnp.arange(len(rates)), rates, thetas))[1]

  server = jax.tree.map(jnp.asarray, algorithm.init(variables))
  client = algorithm.init_client(server)
  states = jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a)[None], len(rows), 0), client)
  return jax.tree.map(np.asarray, run((server, states), data))


def at(tree, step):
  """Returns the states of one round from stacked states."""
  return jax.tree.map(lambda a: a[step], tree)
