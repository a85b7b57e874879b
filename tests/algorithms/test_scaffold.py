"""SCAFFOLD against its algorithm 1 (option II) in NumPy, and its properties."""

import functools

import helpers.reference_fedavg as reference
import jax
import numpy as np
import pytest
from helpers.norm_rows import SPECS
from helpers.reference_fedavg import flat
from helpers.settings import built, configure, plain
from helpers.step_world import KEY, skewed

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.fedavg import FEDAVG
from fedjax_norm.algorithms.scaffold import SCAFFOLD, ScaffoldConfig
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.local_training import Metrics
from fedjax_norm.models.resnet import ResNet
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.device_arrays import placer
from fedjax_norm.training.rounds import compile_interval

SHAPE = (6, 6, 1)
SIZES = (5, 9, 12, 4)  # with batches of 4, some batches are padded
ROUNDS = 20
COHORTS = np.array([[2, 0], [3, 1], [1, 2], [0, 3]] * 5, np.int32)  # half of the population
ALL_CLIENTS = np.tile(np.arange(4, dtype=np.int32), (ROUNDS, 1))
RATE = 0.05
random_variables = functools.partial(reference.random_variables, image_shape=SHAPE)


class World:
  """A small federated data set with label skew."""

  def __init__(self, source, net):
    self.net, self.data = net, skewed(source, SIZES)
    self.transform = make_transforms(Preprocess(augment="none"), source.train.images)[0]

  def model(self, name):
    return ResNet((1,), 4, SPECS[name], 4) if name == "fixup" else self.net(norm=SPECS[name])

  def run(self, method, config, model, cohorts, rate=RATE):
    """Returns (server state, client states, algorithm) after all rounds."""
    lockstep = model.norm.across_clients
    mapping = client_mapping.create(
      "vmap" if lockstep else "scan", num_clients=cohorts.shape[1], lockstep=lockstep
    )
    algorithm = built(method, config, model, mapping, self.data, self.transform, SHAPE)
    server = algorithm.init(random_variables(model))
    clients = ClientStore(algorithm.init_client(server), len(SIZES)).arrays
    rates = np.full(len(cohorts), rate, np.float32)
    bounds = np.int32(0), np.int32(0), np.int32(len(cohorts))
    values = (Metrics.zeros(), cohorts, rates, np.zeros_like(rates), *bounds, self.data, KEY)
    out = compile_interval(algorithm, mapping)(*map(placer(mapping), (server, clients, *values)))
    server, clients, _ = jax.tree.map(np.asarray, out)
    return server, clients, algorithm


@pytest.fixture(scope="module")
def world(tiny_source, tiny_net):
  return World(tiny_source, tiny_net)


def algorithm_1(world, model, config, cohorts, rate=RATE):
  """Returns (x, c, all c_i, batch statistics) of Alg. 1, option II, in float64."""
  batch = reference.batch_drawer(world.data, config.batch_size, world.transform, KEY)
  variables = random_variables(model)
  x, stats = flat(variables["params"]), flat(variables.get("batch_stats", {}))
  zeros = {path: np.zeros_like(leaf) for path, leaf in x.items()}
  c, controls = zeros, [zeros] * len(SIZES)
  for number, cohort in enumerate(cohorts):
    models, changes, weights, all_stats = [], [], [], []
    for i in cohort:
      steps = config.local_steps or config.local_epochs * -(-SIZES[i] // config.batch_size)
      y, trace, new_stats = x, zeros, stats
      for index in range(steps):
        step = number * steps + index
        grads, new_stats = reference.batch_gradient(
          model, y, new_stats, batch(i, step), number + index / steps
        )
        moved, trace = reference.sgd_step(config, y, trace, grads, x, rate)
        y = {path: moved[path] - rate * (c[path] - controls[i][path]) for path in moved}
      after = {p: controls[i][p] - c[p] + (x[p] - y[p]) / (steps * rate) for p in x}
      changes.append({path: after[path] - controls[i][path] for path in x})
      controls[i] = after
      models.append(y)
      weights.append({"examples": SIZES[i], "uniform": 1}[config.weighting])
      all_stats.append(new_stats)
    mean = reference.weighted_mean(models, weights)
    x = {p: x[p] + config.server_lr * (mean[p] - x[p]) for p in x}
    share = len(cohort) / len(SIZES)
    mean_change = reference.weighted_mean(changes, [1] * len(cohort))
    c = {path: c[path] + share * mean_change[path] for path in c}
    stats = reference.weighted_mean(all_stats, weights) if stats else stats
  return x, c, controls, stats


def close(actual, expected, tolerance=1e-4):
  actual, expected = flat(actual), flat(expected)
  assert actual.keys() == expected.keys()
  for path, leaf in expected.items():
    largest = max(np.abs(leaf).max(), 1e-2)
    assert np.abs(actual[path] - leaf).max() < tolerance * largest, path


def settings(**options):
  return configure(ScaffoldConfig, plain(batch_size=4), **{"local_steps": 3, **options})


# Every norm with all clients, and each option with partial cohorts.
CASES = {
  **{name: (name, {}, ALL_CLIENTS[:3]) for name in ("brn", "ln", "in", "cn", "wn", "fixup", "bgn")},
  "20 rounds": ("bn", {}, COHORTS),
  "20 rounds, all clients": ("gn", {"server_lr": 0.7}, ALL_CLIENTS),
  "momentum, clip, decay": (
    "none",
    {"momentum": 0.9, "clip_norm": 0.3, "weight_decay": 0.02, "weighting": "uniform"},
    COHORTS[:6],
  ),
  "epochs": ("gn", {"local_steps": None, "local_epochs": 1}, COHORTS[:6]),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_algorithm_1(world, case):
  name, options, cohorts = CASES[case]
  model, config = world.model(name), settings(**options)
  server, clients, _ = world.run(SCAFFOLD, config, model, cohorts)
  x, c, controls, stats = algorithm_1(world, model, config, cohorts)
  close(server.variables["params"], x)
  close(server.control, c)
  for i, expected in enumerate(controls):
    close(jax.tree.map(lambda a, i=i: a[i], clients.own), expected)
  if stats:
    close(server.variables["batch_stats"], stats)
  assert max(np.abs(leaf).max() for leaf in flat(server.control).values()) > 1e-2


def test_the_first_round_equals_fedavg(world):
  """Control variates are zero at first; in lock-step, which ``algorithm_1`` does not cover."""
  model, fedavg = (
    world.model("sync_bn"),
    configure(FEDAVG.config, plain(batch_size=4), local_steps=3),
  )
  server, _, _ = world.run(SCAFFOLD, settings(), model, ALL_CLIENTS[:1])
  other, _, _ = world.run(FEDAVG, fedavg, model, ALL_CLIENTS[:1])
  close(server.variables["params"], other.variables["params"], 1e-6)
  close(server.variables["batch_stats"], other.variables["batch_stats"], 1e-6)


def test_weighting_changes_the_model_but_not_the_control(world):
  """After one round from equal control variates, their mean does not depend on the weighting."""
  model = world.model("gn")
  by_examples, uniform = (
    world.run(SCAFFOLD, settings(weighting=weighting), model, ALL_CLIENTS[:1])[0]
    for weighting in ("examples", "uniform")
  )
  close(by_examples.control, uniform.control, 1e-6)
  a, b = (flat(server.variables["params"]) for server in (by_examples, uniform))
  assert max(np.abs(a[path] - b[path]).max() for path in a) > 1e-3


def test_cost_is_twice_that_of_fedavg(world):
  """The model and a control variate go in each direction; running statistics only once."""
  for name, stats in (("gn", 0), ("bn", 4 * 16)):
    model = world.model(name)
    mapping = client_mapping.create("scan", num_clients=4)
    arguments = (model, mapping, world.data, world.transform, SHAPE)
    config = configure(FEDAVG.config, plain(batch_size=4), local_steps=3)
    fedavg, scaffold = built(FEDAVG, config, *arguments), built(SCAFFOLD, settings(), *arguments)
    params = fedavg.cost.up - stats
    assert scaffold.cost.up == scaffold.cost.down == 2 * params + stats


@pytest.mark.parametrize("steps", [5, 50])
@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"momentum": 0.9, "clip_norm": 1.0}])
def test_is_stable(world, steps, options):
  """The control variate is added after momentum and clipping, so that neither multiplies it."""
  config = settings(local_steps=steps, **options)
  server, _, _ = world.run(SCAFFOLD, config, world.model("gn"), COHORTS[:10], rate=0.02)
  leaves = [*flat(server.variables["params"]).values(), *flat(server.control).values()]
  assert all(np.isfinite(leaf).all() for leaf in leaves)
  assert max(np.abs(leaf).max() for leaf in leaves) < 20
