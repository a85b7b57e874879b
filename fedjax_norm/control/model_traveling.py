"""Model travelling (paper 004, sec. 7.1): how well a client's model does on another's data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm.algorithms.contract import Algorithm
from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.federated import FederatedData, Transform, sample
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import measure
from fedjax_norm.norm import Mode
from fedjax_norm.objectives import Objective, find
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, Key, PyTree, Variables

Travel = Callable[[PyTree, PyTree, FederatedData, int, Key], tuple[Array, Array]]
"""(server's state, clients' states [K, ...], the federation on the device, the round before which
it is, key of the run) -> (each model's accuracy at home [K], where it travelled to [K])."""


def hosts(key: Key, round: Array, num_clients: int) -> Array:
  """Where each client's model travels: [K] int32, nobody's to its own client.

  All go the same random number of places on, so that everyone is visited once.
  """
  key = jax.random.fold_in(stream(key, Stream.MODEL_TRAVELING), round)
  shift = jax.random.randint(key, (), 1, num_clients)
  return (jnp.arange(num_clients, dtype=jnp.int32) + shift) % num_clients


def make_travel(
  model: nn.Module,
  algorithm: Algorithm,
  mapping: ClientMapping,
  transform: Transform,
  examples: int,
  objective: str | Objective = "classification",
) -> Travel:
  """Evaluates every client's model on a sample of its own training data and of another's.

  A sample is ``examples`` of a client's at random (all of them where it holds fewer), without
  augmentation, of what it trains on at that time; home and host have one each.

  Args:
    model: the model, unbound to any axis.
    algorithm: whose models travel (``views.travelling``), or its global model.
    mapping: how clients are mapped.
    transform: of training images, without augmentation.
    examples: of a sample.
    objective: under which something is right or wrong.

  Raises:
    UserError: an objective that knows no accuracy to be lost.
  """
  if find(objective).correct is None:
    raise UserError(
      "SkewScout weighs the accuracy that is lost, and this objective has none; drop SkewScout."
    )

  def own(server: PyTree, client: PyTree) -> Variables:
    model_of = algorithm.views.travelling or algorithm.views.client
    return model_of(server, client) if model_of else server.variables

  def node(shared, item):
    (server, data, round_, key), (row, other, client) = shared, item
    variables = own(server, client)

    def accuracy(row: Array) -> Array:
      batch = sample(data, row, round_, examples, transform, key)
      metrics = measure(objective, model.apply(variables, batch.images, Mode()), batch)
      return metrics.correct / metrics.examples

    return (), (accuracy(row), accuracy(other))

  @jax.jit
  def travel(server, clients, data, round_, key):
    rows = jnp.arange(data.num_clients, dtype=jnp.int32)
    items = (rows, hosts(key, round_, data.num_clients), clients)
    return mapping.map_reduce(node, (server, data, round_, key), items)[1]

  return travel


def accuracy_loss(home: Array, away: Array) -> float:
  """AL: by how much models do worse abroad than at home, on average; a share."""
  return float(np.mean(np.asarray(home, np.float64) - np.asarray(away, np.float64)))
