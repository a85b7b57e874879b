"""Model traveling (paper 004, sec. 7.1): accuracy of a client's model on another client's data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm.algorithms.algorithm import Algorithm
from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.federated import FederatedData, Transform, sample
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import measure
from fedjax_norm.norm import Mode
from fedjax_norm.objectives import Objective, find
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, Key, PyTree, Variables

ModelTraveling = Callable[[PyTree, PyTree, FederatedData, int, Key], tuple[Array, Array]]
"""(server state, client states [K, ...], all clients' data on the device, round before which models
travel, key of the run) -> (accuracy of each client's model on its data [K], and on the data of the
client that it travels to [K])."""


def destinations(key: Key, round: Array, num_clients: int) -> Array:
  """Returns the client that each client's model travels to, never its own client: [K] int32.

  All models travel by the same random shift of client ids, so that each client receives one model.
  """
  key = jax.random.fold_in(stream(key, Stream.MODEL_TRAVELING), round)
  shift = jax.random.randint(key, (), 1, num_clients)
  return (jnp.arange(num_clients, dtype=jnp.int32) + shift) % num_clients


def make_model_traveling(
  model: nn.Module,
  algorithm: Algorithm,
  mapping: ClientMapping,
  transform: Transform,
  examples: int,
  objective: str | Objective = "classification",
) -> ModelTraveling:
  """Makes a function that tests every client's model on its own and another client's training data.

  Each client's model is tested on a random sample of ``examples`` examples (or all, if there are
  fewer), without augmentation, of the data that the client trains on in that round.

  The model is ``views.traveling``, by default ``views.client`` or the global model.

  Raises:
    UserError: an objective without accuracy.
  """
  if find(objective).correct is None:
    raise UserError(
      "SkewScout measures a loss of accuracy, but this objective has no accuracy; drop SkewScout."
    )

  def traveling_model(server: PyTree, client: PyTree) -> Variables:
    model_of = algorithm.views.traveling or algorithm.views.client
    return model_of(server, client) if model_of else server.variables

  def test_client(shared: Any, item: Any) -> tuple[tuple[()], tuple[Array, Array]]:
    (server, data, round_, key), (row, destination, client) = shared, item
    variables = traveling_model(server, client)

    def accuracy(row: Array) -> Array:
      batch = sample(data, row, round_, examples, transform, key)
      metrics = measure(objective, model.apply(variables, batch.images, Mode()), batch)
      return metrics.correct / metrics.examples

    return (), (accuracy(row), accuracy(destination))

  @jax.jit
  def travel(
    server: PyTree, clients: PyTree, data: FederatedData, round_: int, key: Key
  ) -> tuple[Array, Array]:
    rows = jnp.arange(data.num_clients, dtype=jnp.int32)
    items = (rows, destinations(key, round_, data.num_clients), clients)
    return mapping.map_reduce(test_client, (server, data, round_, key), items)[1]

  return travel


def accuracy_loss(home: Array, away: Array) -> float:
  """Returns AL: the mean loss of accuracy on other clients' data, between -1 and 1."""
  return float(np.mean(np.asarray(home, np.float64) - np.asarray(away, np.float64)))
