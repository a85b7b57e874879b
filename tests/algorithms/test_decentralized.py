"""Gaia, periodic averaging and DGC against their pseudo-code and against BSP."""

import dataclasses
import functools

import helpers.reference_decentralized as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference_fedavg, reference_ssgd
from helpers.reference_fedavg import flat
from helpers.settings import built, configure, plain
from helpers.step_world import KEY, at, run_rounds, skewed

from fedjax_norm import client_mapping, norm, tree_leaves
from fedjax_norm.algorithms.dgc import DGC, DgcConfig
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.algorithms.gaia import GAIA, GaiaConfig
from fedjax_norm.algorithms.periodic_averaging import PERIODIC, PeriodicConfig
from fedjax_norm.algorithms.ssgd import SSGD, SsgdConfig
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.errors import UserError

SHAPE = (6, 6, 1)


SIZES = (5, 9, 12, 4)


STEPS, RATE = 20, 0.05


RATES = np.full(STEPS, RATE, np.float32)


FALLING = np.linspace(0.1, 0.02, STEPS, dtype=np.float32)


PLAIN = plain(batch_size=4, momentum=0.9)


HEAVY = plain(batch_size=4, momentum=0.9, weight_decay=5e-3, clip_norm=1.0)


NO_MOMENTUM = plain(batch_size=4)


VMAP = client_mapping.create("vmap", num_clients=len(SIZES))


SCAN = client_mapping.create("scan", num_clients=len(SIZES))


close = functools.partial(reference_fedavg.close, rtol=0)
random_variables = functools.partial(reference_fedavg.random_variables, image_shape=SHAPE)


class World:
  """The small federated data set, and runs of every algorithm on it."""

  def __init__(self, source, net):
    self.net = net
    self.transform = make_transforms(Preprocess(augment="none"), source.train.images)[0]
    self.data = skewed(source, SIZES)

  def model(self, name="none", **options):
    return self.net(norm=norm.create(name, **options))

  def run(self, method, config, model=None, rates=RATES, thetas=None, mapping=VMAP):
    model = model or self.model()
    algorithm = built(method, config, model, mapping, self.data, self.transform, SHAPE)
    states = run_rounds(algorithm, random_variables(model), self.data, rates, thetas)
    return algorithm, *states

  def batches(self):
    takes = [4] * len(SIZES)
    return reference_ssgd.batches_of(self.data, takes, self.transform, KEY)


@pytest.fixture(scope="module")
def world(tiny_source, tiny_net):
  return World(tiny_source, tiny_net)


def sent(algorithm, server, step):
  return algorithm.sent(at(server, step))


@pytest.mark.parametrize("name", ["none", "bn"])
def test_gaia_is_algorithm_1(world, name):
  model = world.model(name, decay=0.5) if name == "bn" else world.model()
  thresholds = np.linspace(0.3, 0.05, STEPS, dtype=np.float32)
  stats = "local" if name == "bn" else "mean"
  algorithm, server, clients, _ = world.run(
    GAIA, configure(GaiaConfig, HEAVY, batch_stats=stats), model=model, thetas=thresholds
  )
  variables = random_variables(model)
  expected = reference.gaia(model, HEAVY, world.batches(), variables, RATE, thresholds)
  sent_shares = []
  for step, state in enumerate(expected):
    for k in range(len(SIZES)):
      client = at(at(clients, step), k)
      got = algorithm.views.client(at(server, step), client)
      close(got["params"], state.weights[k], f"of client {k} after step {step}")
      close(client.residual, state.residuals[k], f"residual of client {k} after step {step}")
      if name == "bn":
        close(got["batch_stats"], state.stats[k], f"of client {k} after step {step}")
    mean = reference_fedavg.weighted_mean(state.weights, [1] * len(SIZES))
    close(at(server, step).variables["params"], mean, f"on average after step {step}")
    traffic = sent(algorithm, server, step)
    assert (traffic.bytes_up, traffic.bytes_down) == (state.up, state.down)
    sent_shares.append(
      np.mean([(state.residuals[k]["Conv_0/kernel"] == 0).mean() for k in range(4)])
    )
  assert 0.05 < np.mean(sent_shares) < 0.95  # the threshold sends some elements and keeps others


@pytest.mark.parametrize(
  ("masking", "scope", "mapping"),
  [(True, "tensor", VMAP), (True, "global", VMAP), (False, "global", SCAN)],
)
def test_dgc_is_algorithm_3(world, masking, scope, mapping):
  sparsities = np.repeat([0.5, 0.75, 0.9, 0.97], 5).astype(np.float32)
  config = configure(DgcConfig, HEAVY, momentum_masking=masking, threshold_scope=scope)
  algorithm, server, clients, _ = world.run(DGC, config, thetas=sparsities, mapping=mapping)
  model = world.model()
  start = world.batches(), random_variables(model), RATE
  expected = reference.dgc(model, HEAVY, *start, sparsities, masking, scope)
  for step, state in enumerate(expected):
    close(at(server, step).variables["params"], state.weights[0], f"after step {step}")
    for k in range(len(SIZES)):
      close(at(at(clients, step), k).residual, state.residuals[k], f"of {k} after step {step}")
    traffic = sent(algorithm, server, step)
    assert (traffic.bytes_up, traffic.bytes_down) == (state.up, state.down)


@pytest.mark.parametrize("local_steps", [1, 5])
def test_periodic_averaging_is_algorithm_2(world, local_steps):
  config = configure(PeriodicConfig, HEAVY)
  algorithm, server, clients, _ = world.run(PERIODIC, config, thetas=np.full(STEPS, local_steps))
  model = world.model()
  expected = reference.fedavg(
    model, HEAVY, world.batches(), random_variables(model), RATE, STEPS // local_steps, local_steps
  )
  for index, (average, local) in enumerate(expected):
    step = (index + 1) * local_steps - 1
    close(at(server, step).variables["params"], average, f"after step {step}")
    for k in range(len(SIZES)):
      got = algorithm.views.traveling(at(server, step), at(at(clients, step), k))
      close(got["params"], local[k], f"of client {k} before the average")
  traffic = sent(algorithm, server, STEPS - 1)
  size = tree_leaves.num_bytes(random_variables(model)["params"])
  averages = STEPS // local_steps
  assert traffic == (averages * 4 * size, averages * 4 * size, averages)


def test_periodic_averaging_equals_rounds_of_fedavg(world):
  """With running statistics, which both average, and with a momentum that is reset."""
  model = world.model("bn", decay=0.5)
  config = configure(PeriodicConfig, PLAIN, client_momentum="reset")
  _, server, _, _ = world.run(PERIODIC, config, model=model, thetas=np.full(STEPS, 5))
  other = configure(
    FedAvgConfig, PLAIN, local_steps=5, weighting="uniform", client_momentum="reset"
  )
  _, expected, _, _ = world.run(FEDAVG, other, model=model, rates=RATES[:4])
  for index in range(4):
    got = at(server, 5 * index + 4).variables
    close(got["params"], at(expected, index).variables["params"], f"in round {index}")
    close(got["batch_stats"], at(expected, index).variables["batch_stats"], f"in round {index}")


def test_the_number_of_local_steps_can_change_between_rounds(world):
  """With 2, 2 and 3 local steps, averages come after steps 2, 4 and 7."""
  thetas = np.array([2, 2, 2, 2, 3, 3, 3, 3])
  algorithm, server, _, _ = world.run(
    PERIODIC, configure(PeriodicConfig, PLAIN), rates=RATES[:8], thetas=thetas
  )
  trips = [sent(algorithm, server, step).round_trips for step in range(8)]
  assert trips == [0, 1, 1, 2, 2, 2, 3, 3]


def bsp(world, local, reduction, rates=FALLING, model=None):
  config = configure(SsgdConfig, local, weighting="uniform", reduction=reduction)
  return world.run(SSGD, config, model=model, rates=rates)[1].variables


def test_gaia_with_threshold_zero_is_bsp(world):
  """The learning rate falls, and running statistics are averaged in each step."""
  model = world.model("bn", decay=0.5)
  local = dataclasses.replace(HEAVY, clip_norm=0.0)
  _, server, clients, _ = world.run(
    GAIA, configure(GaiaConfig, local, batch_stats="mean"), model=model, rates=FALLING
  )
  expected = bsp(world, local, "sum", model=model)
  for step in range(STEPS):
    close(at(server, step).variables["params"], at(expected, step)["params"], f"after {step}")
    stats = at(server, step).variables["batch_stats"]
    close(stats, at(expected, step)["batch_stats"], f"after {step}")
  assert not any(leaf.any() for leaf in jax.tree.leaves(clients.residual))


@pytest.mark.parametrize("masking", [True, False])
def test_dgc_with_sparsity_zero_is_bsp(world, masking):
  """Masking clears the momentum of sent elements, so that BSP has none."""
  local = dataclasses.replace(PLAIN, weight_decay=5e-3)
  config = configure(DgcConfig, local, momentum_masking=masking)
  _, server, _, _ = world.run(DGC, config, rates=FALLING)
  bsp_config = dataclasses.replace(local, momentum=0.0) if masking else local
  expected = bsp(world, bsp_config, "sum")
  for step in range(STEPS):
    close(at(server, step).variables["params"], at(expected, step)["params"], f"after {step}")


@pytest.mark.parametrize("momentum", ["local", "reset"])
def test_fedavg_of_single_steps_is_mean_bsp(world, momentum):
  expected = bsp(world, PLAIN if momentum == "local" else NO_MOMENTUM, "mean")
  config = configure(FedAvgConfig, PLAIN, weighting="uniform", client_momentum=momentum)
  _, server, _, _ = world.run(FEDAVG, config, rates=FALLING)
  for step in range(STEPS):
    close(at(server, step).variables["params"], at(expected, step)["params"], f"after {step}")


@pytest.mark.parametrize(
  ("method", "options", "theta"),
  [(GAIA, {}, 0), (DGC, {}, 0), (DGC, {"threshold_scope": "global"}, 0.7)],
)
def test_frozen_parameters_do_not_change(world, method, options, theta):
  """Residuals from before the freeze are not sent, do not change, and take no other's place."""
  paths = frozenset({"Dense_0/kernel"})
  config = configure(method.config, dataclasses.replace(PLAIN, frozen_paths=paths), **options)
  algorithm = built(method, config, world.model(), SCAN, world.data, world.transform, SHAPE)
  variables = random_variables(world.model())
  client = algorithm.init_client(algorithm.init(variables))
  residual = jax.tree.map(jnp.ones_like, client.residual)
  residual["Dense_0"]["kernel"] *= 100
  client = client._replace(residual=residual)
  algorithm = algorithm._replace(init_client=lambda server: client)
  server, clients, _ = run_rounds(algorithm, variables, world.data, RATES[:2], np.full(2, theta))
  after, before = flat(at(server, -1).weights), flat(variables["params"])
  np.testing.assert_array_equal(after["Dense_0/kernel"], before["Dense_0/kernel"])
  changed = np.abs(after["Conv_0/kernel"] - before["Conv_0/kernel"]) > 1
  assert changed.mean() > (0.2 if theta else 0.99)
  assert np.all(at(clients, -1).residual["Dense_0"]["kernel"] == 100)


@pytest.mark.parametrize(
  ("config", "words"),
  [
    (lambda: GaiaConfig(batch_stats="all"), "batch_stats"),
    (lambda: DgcConfig(selection="best"), "selection"),
    (lambda: DgcConfig(threshold_scope="layer"), "threshold_scope"),
    (lambda: PeriodicConfig(client_momentum="global"), "client_momentum"),
    (lambda: SsgdConfig(reduction="median"), "reduction"),
  ],
)
def test_wrong_settings_are_refused(config, words):
  with pytest.raises(UserError, match=words):
    config()
