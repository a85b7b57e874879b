"""Model traveling against accuracies that are computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference_fedavg
from helpers.settings import built, configure, plain
from helpers.step_world import KEY, skewed

from fedjax_norm import client_mapping, norm
from fedjax_norm.algorithms.costs.ledger import TrafficCounter
from fedjax_norm.algorithms.gaia import GAIA, GaiaConfig
from fedjax_norm.algorithms.residual_updates import ClientState, ServerState
from fedjax_norm.algorithms.ssgd import SSGD, SsgdConfig
from fedjax_norm.control.model_traveling import accuracy_loss, destinations, make_model_traveling
from fedjax_norm.data.example_order import ExampleOrder
from fedjax_norm.data.federated import federate, sample
from fedjax_norm.data.partitions.registry import Partition as Division
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode

SIZES = (5, 9, 12, 4)


def test_every_client_sends_and_receives_a_model():
  first = set()
  for round_ in range(40):
    to = np.asarray(destinations(KEY, jnp.int32(round_), 5))
    assert sorted(to) == list(range(5))
    assert not np.any(to == np.arange(5))
    first.add(int(to[0]))
  assert first == {1, 2, 3, 4}
  np.testing.assert_array_equal(destinations(KEY, 3, 2), [1, 0])


def test_samples_are_new_in_every_measurement(tiny_source):
  """Ten of a client's twelve examples, and with drift those of the current stretch."""

  def ids(data, row, step):
    data = jax.tree.map(jnp.asarray, data)
    batch = sample(data, row, jnp.int32(step), 10, lambda images, ids, *_: ids, KEY)
    return np.asarray(batch.images)[np.asarray(batch.mask) > 0]

  data = skewed(tiny_source, SIZES)
  all_ids = data.order[data.offsets[2] : data.offsets[2] + 12]
  drawn = [ids(data, 2, step) for step in range(6)]
  for one in drawn:
    assert len(set(one)) == 10
    assert set(one) <= set(all_ids)
  assert len({tuple(sorted(one)) for one in drawn}) > 1
  assert set(ids(data, 3, 1)) == set(data.order[data.offsets[3] :][:4])  # all four examples
  division = Division(data.order, np.append(data.offsets, data.offsets[-1] + data.sizes[-1]))
  order = ExampleOrder(drift="source", drift_stretches=2)
  drifting = federate(tiny_source.train, division, order=order, stretch_steps=5)
  assert set(ids(drifting, 2, 4)) == set(np.sort(all_ids)[:6])
  assert set(ids(drifting, 2, 5)) == set(np.sort(all_ids)[6:])


@pytest.mark.parametrize("local_models", [True, False])
def test_accuracies_on_local_and_other_data(tiny_source, tiny_net, local_models):
  """Each sample has all of a client's examples, so that their order does not matter."""
  data, model = skewed(tiny_source, SIZES), tiny_net(norm=norm.create("bn"))
  transform = make_transforms(Preprocess(), tiny_source.train.images)[1]
  mapping = client_mapping.create("scan", num_clients=4)
  variables = reference_fedavg.random_variables(model, (6, 6, 1))
  rng = np.random.default_rng(0)

  def noise(leaf):
    return rng.normal(0, 0.3, (4, *leaf.shape)).astype(np.float32)

  if local_models:
    config = configure(GaiaConfig, plain(), batch_stats="local")
    algorithm = built(GAIA, config, model, mapping, data, transform, (6, 6, 1))
    stats = jax.tree.map(lambda leaf: leaf + np.abs(noise(leaf)), variables["batch_stats"])
    residual = jax.tree.map(noise, variables["params"])
    states = ClientState((), residual, stats)
    server = ServerState(variables["params"], variables, TrafficCounter.zeros())
    models = [
      {
        "params": jax.tree.map(lambda b, v, k=k: b + v[k], variables["params"], residual),
        "batch_stats": jax.tree.map(lambda a, k=k: a[k], stats),
      }
      for k in range(4)
    ]
  else:
    config = configure(SsgdConfig, plain())
    algorithm = built(SSGD, config, model, mapping, data, transform, (6, 6, 1))
    states, models = (), [variables] * 4
    server = algorithm.init(variables)

  travel = make_model_traveling(model, algorithm, mapping, transform, 12)
  home, away = travel(server, states, jax.tree.map(jnp.asarray, data), jnp.int32(2), KEY)
  to = np.asarray(destinations(KEY, jnp.int32(2), 4))

  def accuracy(k, client):
    ids = data.order[data.offsets[client] : data.offsets[client] + data.sizes[client]]
    images = transform(jnp.asarray(data.images[ids]), ids, np.float32(0), KEY, KEY)
    return np.mean(model.apply(models[k], images, Mode()).argmax(-1) == data.labels[ids])

  expected_home = [accuracy(k, k) for k in range(4)]
  expected_away = [accuracy(k, to[k]) for k in range(4)]
  np.testing.assert_allclose(home, expected_home, atol=1e-6)
  np.testing.assert_allclose(away, expected_away, atol=1e-6)
  assert expected_home != expected_away
  assert accuracy_loss(home, away) == pytest.approx(
    np.mean(expected_home) - np.mean(expected_away), abs=1e-6
  )


def test_an_objective_without_accuracy_is_refused():
  with pytest.raises(UserError, match="this task has no accuracy; drop --skewscout"):
    make_model_traveling(None, None, None, None, 12, "regression")
