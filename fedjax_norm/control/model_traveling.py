"""Model traveling (paper 004, sec. 7.1): tests each client's model on another client's data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.federated import FederatedData, Transform, sample
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import measure
from fedjax_norm.norm import Mode
from fedjax_norm.objectives import Objective, find
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, Key, PyTree

ModelTraveling = Callable[[PyTree, PyTree, FederatedData, int, Key], tuple[Array, Array]]
"""(server state, client states [K, ...], all clients' data on the device, round before which models
are tested, key of the run) -> (accuracy [K] of each client's model on the client's data, accuracy
[K] on the data of the client that the model travels to)."""


def destinations(key: Key, round: Array, num_clients: int) -> Array:
  """Returns the index of the client to which each client's model travels: [K] int32.

  All models travel by the same random shift of indices, so that each client receives the model of
  one other client.
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
  """Returns a function that tests every client's model on this and another client's training data.

  Each test uses a random sample of ``examples`` training examples of a client (all, if the client
  has fewer), transformed by ``transform``. An algorithm's ``views.traveling`` chooses the model of
  a client, by default ``views.client`` or else the global model.

  Raises:
    UserError: the objective has no accuracy.
  """
  if find(objective).correct is None:
    raise UserError(
      "--skewscout measures a loss of accuracy, but this task has no accuracy; drop --skewscout."
    )
  model_of = algorithm.views.traveling or algorithm.views.client

  def test_client(shared: Any, item: Any) -> tuple[tuple[()], tuple[Array, Array]]:
    (server, data, round_, key), (row, destination, client) = shared, item
    variables = model_of(server, client) if model_of else server.variables

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
  """Returns the mean of home - away, SkewScout's accuracy loss AL, between -1 and 1.

  Args:
    home: [K] accuracy of each client's model on the client's data.
    away: [K] accuracy of the same models on the data of the clients to which they traveled.
  """
  return float(np.mean(np.asarray(home, np.float64) - np.asarray(away, np.float64)))
