"""Gaia, FedAvg step by step and DGC against their pseudo-code, BSP, and what must be conserved."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm import client_mapping, norm, tree_leaves
from fedjax_norm.algorithms.costs import ledger
from fedjax_norm.algorithms.dgc import DGC, DgcConfig, largest, num_sent, roughly_largest
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.algorithms.gaia import GAIA, GaiaConfig, significant
from fedjax_norm.algorithms.periodic import PERIODIC, PeriodicConfig
from fedjax_norm.algorithms.residual import divide
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
random_variables = functools.partial(reference_fedavg.random_variables, image_shape=SHAPE)


class World:
  """A federation of the tiny images, and every algorithm in it."""

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


def close(actual, expected, message, tolerance=2e-5):
  actual, expected = flat(actual), flat(expected)
  assert actual.keys() == expected.keys()
  for path in expected:
    difference = np.abs(actual[path] - expected[path]).max()
    assert difference < tolerance, f"{path} {message}: {difference}"


def sent(algorithm, server, step):
  return algorithm.sent(at(server, step))


# --- each algorithm against its pseudo-code ---


@pytest.mark.parametrize("name", ["none", "bn"])
def test_gaia_is_algorithm_1(world, name):
  model = world.model(name, decay=0.5) if name == "bn" else world.model()
  thresholds = np.linspace(0.3, 0.05, STEPS, dtype=np.float32)  # T_t falls
  stats = "local" if name == "bn" else "mean"
  algorithm, server, parts, _ = world.run(
    GAIA, configure(GaiaConfig, HEAVY, batch_stats=stats), model=model, thetas=thresholds
  )
  variables = random_variables(model)
  expected = reference.gaia(model, HEAVY, world.batches(), variables, RATE, thresholds)
  mean_sent = []
  for step, state in enumerate(expected):
    for k in range(len(SIZES)):
      own = at(at(parts, step), k)
      got = algorithm.views.client(at(server, step), own)
      close(got["params"], state.weights[k], f"of node {k} after step {step}")
      close(own.residual, state.residuals[k], f"held by node {k} after step {step}")
      if name == "bn":
        close(got["batch_stats"], state.stats[k], f"of node {k} after step {step}")
    mean = reference_fedavg.weighted_mean(state.weights, [1] * len(SIZES))
    close(at(server, step).variables["params"], mean, f"on average after step {step}")
    traffic = sent(algorithm, server, step)
    assert (traffic.bytes_up, traffic.bytes_down) == (state.up, state.down)
    mean_sent.append(np.mean([(state.residuals[k]["Conv_0/kernel"] == 0).mean() for k in range(4)]))
  assert 0.05 < np.mean(mean_sent) < 0.95  # the threshold divides


@pytest.mark.parametrize("masking", [True, False])
def test_dgc_is_algorithm_3(world, masking):
  sparsities = np.repeat([0.5, 0.75, 0.9, 0.97], 5).astype(np.float32)
  config = configure(DgcConfig, HEAVY, momentum_masking=masking)
  algorithm, server, parts, _ = world.run(DGC, config, thetas=sparsities)
  model = world.model()
  variables = random_variables(model)
  expected = reference.dgc(model, HEAVY, world.batches(), variables, RATE, sparsities, masking)
  for step, state in enumerate(expected):
    close(at(server, step).variables["params"], state.weights[0], f"after step {step}")
    for k in range(len(SIZES)):
      close(at(at(parts, step), k).residual, state.residuals[k], f"of {k} after step {step}")
    traffic = sent(algorithm, server, step)
    assert (traffic.bytes_up, traffic.bytes_down) == (state.up, state.down)


@pytest.mark.parametrize("local_steps", [1, 5])
def test_periodic_averaging_is_algorithm_2(world, local_steps):
  config = configure(PeriodicConfig, HEAVY)
  algorithm, server, parts, _ = world.run(PERIODIC, config, thetas=np.full(STEPS, local_steps))
  model = world.model()
  expected = reference.fedavg(
    model, HEAVY, world.batches(), random_variables(model), RATE, STEPS // local_steps, local_steps
  )
  for index, (average, own) in enumerate(expected):
    step = (index + 1) * local_steps - 1
    close(at(server, step).variables["params"], average, f"after step {step}")
    for k in range(len(SIZES)):
      got = algorithm.views.traveling(at(server, step), at(at(parts, step), k))
      close(got["params"], own[k], f"of node {k} just before the average")
  traffic = sent(algorithm, server, STEPS - 1)
  size = tree_leaves.num_bytes(random_variables(model)["params"])
  averages = STEPS // local_steps
  assert traffic == (averages * 4 * size, averages * 4 * size, averages)


def test_periodic_averaging_is_fedavg_round_by_round(world):
  """With running statistics too, which both combine at an average, and a momentum that ends."""
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


def test_the_number_of_local_steps_may_change_between_rounds(world):
  """2, 2, then 3 steps: averages after steps 2, 4 and 7, as three runs in a row would have."""
  thetas = np.array([2, 2, 2, 2, 3, 3, 3, 3])
  algorithm, server, _, _ = world.run(
    PERIODIC, configure(PeriodicConfig, PLAIN), rates=RATES[:8], thetas=thetas
  )
  trips = [sent(algorithm, server, step).round_trips for step in range(8)]
  assert trips == [0, 1, 1, 2, 2, 2, 3, 3]


# --- against BSP ---


def bsp(world, local, reduction, rates=FALLING, model=None):
  config = configure(SsgdConfig, local, weighting="uniform", reduction=reduction)
  return world.run(SSGD, config, model=model, rates=rates)[1].variables


def test_gaia_without_a_threshold_is_bsp(world):
  """Also while the rate falls, and with running statistics that all combine each step."""
  model = world.model("bn", decay=0.5)
  local = dataclasses.replace(HEAVY, clip_norm=0.0)
  _, server, parts, _ = world.run(
    GAIA, configure(GaiaConfig, local, batch_stats="mean"), model=model, rates=FALLING
  )
  expected = bsp(world, local, "sum", model=model)
  for step in range(STEPS):
    close(at(server, step).variables["params"], at(expected, step)["params"], f"after {step}")
    stats = at(server, step).variables["batch_stats"]
    close(stats, at(expected, step)["batch_stats"], f"after {step}")
  assert not any(leaf.any() for leaf in jax.tree.leaves(parts.residual))


@pytest.mark.parametrize("masking", [True, False])
def test_dgc_that_sends_all_is_bsp(world, masking):
  """Without momentum where what is sent loses its own, with it otherwise."""
  local = dataclasses.replace(PLAIN, weight_decay=5e-3)
  config = configure(DgcConfig, local, momentum_masking=masking)
  _, server, _, _ = world.run(DGC, config, rates=FALLING)
  like = dataclasses.replace(local, momentum=0.0) if masking else local
  expected = bsp(world, like, "sum")
  for step in range(STEPS):
    close(at(server, step).variables["params"], at(expected, step)["params"], f"after {step}")


@pytest.mark.parametrize("momentum", ["local", "reset"])
def test_fedavg_of_single_steps_is_mean_bsp(world, momentum):
  expected = bsp(world, PLAIN if momentum == "local" else NO_MOMENTUM, "mean")
  config = configure(FedAvgConfig, PLAIN, weighting="uniform", client_momentum=momentum)
  _, server, _, _ = world.run(FEDAVG, config, rates=FALLING)
  for step in range(STEPS):
    close(at(server, step).variables["params"], at(expected, step)["params"], f"after {step}")


@pytest.mark.parametrize("method", [GAIA, DGC])
def test_what_is_frozen_does_not_move(world, method):
  """Not even by what partitions held back before: the residual at frozen paths stays."""
  paths = frozenset({"Conv_0/kernel"})
  config = configure(method.config, dataclasses.replace(PLAIN, frozen_paths=paths))
  algorithm = built(method, config, world.model(), SCAN, world.data, world.transform, SHAPE)
  variables = random_variables(world.model())
  held = algorithm.init_client(algorithm.init(variables))
  held = held._replace(residual=jax.tree.map(jnp.ones_like, held.residual))
  algorithm = algorithm._replace(init_client=lambda server: held)
  server, parts, _ = run_rounds(algorithm, variables, world.data, RATES[:2], np.zeros(2))
  after, before = flat(at(server, -1).weights), flat(variables["params"])
  np.testing.assert_array_equal(after["Conv_0/kernel"], before["Conv_0/kernel"])
  assert np.abs(after["Dense_0/kernel"] - before["Dense_0/kernel"]).min() > 1
  assert np.all(at(parts, -1).residual["Conv_0"]["kernel"] == 1)


# --- what is conserved ---

# Few lengths, for each compiles anew.
vectors = st.sampled_from([1, 9, 70]).flatmap(
  lambda n: st.tuples(*(st.lists(st.floats(-4, 4, width=16), min_size=n, max_size=n),) * 2)
)


@settings(max_examples=40, deadline=None)
@given(vectors, st.floats(0, 2, width=32))
def test_what_is_sent_and_what_stays_add_up(vector, theta):
  v, w = (np.array(values, np.float32) for values in vector)
  for chosen in (significant(v, w, theta), largest(v, w, min(theta, 1.0))):
    share, rest = divide(v, chosen)
    assert not np.any((share != 0) & (rest != 0))
    np.testing.assert_array_equal(np.where(chosen, share, rest), v)
    np.testing.assert_array_equal(share + rest, v)


@settings(max_examples=40, deadline=None)
@given(vectors, st.sampled_from([0.0, 0.25, 0.75, 0.9375, 0.999]))
def test_the_largest_are_chosen_with_their_ties(vector, sparsity):
  v = np.array(vector[0], np.float32)
  chosen = np.asarray(largest(v, v, sparsity))
  count = int(num_sent(v.size, sparsity))
  assert count == (v.size if sparsity == 0 else max(1, round((1 - sparsity) * v.size)))
  order = np.sort(np.abs(v))[::-1]
  np.testing.assert_array_equal(chosen, np.abs(v) >= order[count - 1])
  assert chosen.sum() >= count


def test_a_weight_of_zero_is_significant():
  v, w = np.array([0.1, 0.1, 0.0, 0.3], np.float32), np.array([0, 1, 0, -1], np.float32)
  np.testing.assert_array_equal(significant(v, w, 0.2), [True, False, True, True])
  np.testing.assert_array_equal(significant(v, w, 0.0), [True, True, True, True])


@pytest.mark.parametrize("sparsity", [0.0, 0.9, 0.99])
def test_a_sampled_threshold_is_close(sparsity):
  """It lets through about the wanted share of 20,000 normal numbers, and never many more."""
  v = jax.random.normal(jax.random.key(1), (200, 100))
  exact = np.asarray(largest(v, v, sparsity))
  rough = np.asarray(roughly_largest(v, v, sparsity, jax.random.key(2)))
  assert 0.5 * exact.sum() <= rough.sum() <= 1.3 * exact.sum()
  smaller, larger = sorted((rough, exact), key=np.sum)
  assert not np.any(smaller & ~larger)  # both take from the top
  if sparsity == 0.9:
    other = np.asarray(roughly_largest(v, v, sparsity, jax.random.key(3)))
    assert rough.sum() != exact.sum() or other.sum() != exact.sum()  # it is a sample's
  # All equal: the sample's threshold lets everything through, and so does the exact one.
  assert np.all(roughly_largest(jnp.ones(30000), v, sparsity, jax.random.key(2)))
  # A sample of small ones would let too much through, were it not made exact.
  spikes = jnp.zeros(20000).at[::2].set(jnp.arange(10000.0) + 1)
  assert roughly_largest(spikes, v, 0.9, jax.random.key(2)).sum() <= 2600


@settings(max_examples=60, deadline=None)
@given(st.lists(vectors, min_size=1, max_size=3), st.floats(0, 3))
def test_the_ledger_counts_the_bytes_of_a_message(pairs, threshold):
  update = {
    f"t{i}": np.where(np.abs(v) > threshold, v, 0).astype(np.float32)
    for i, (v, _) in enumerate(pairs)
  }
  message = reference.encode(update)
  assert int(ledger.update_bytes(update)) == len(message)
  back = reference.decode(message, {name: value.shape for name, value in update.items()})
  for name, value in update.items():
    np.testing.assert_array_equal(back[name], value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), max_size=6), st.integers(1, 4095))
def test_counters_do_not_overflow(counts, factor):
  total, expected = ledger.Counter.of(0), 0
  for count in counts:
    total = total.add(ledger.Counter.of(jnp.uint32(count)).times(factor))
    expected += count * factor
  assert total.value() == expected
  assert ledger.Counter.of(expected).value() == expected


@pytest.mark.parametrize(
  ("config", "told"),
  [
    (lambda: GaiaConfig(batch_stats="all"), "batch_stats"),
    (lambda: DgcConfig(selection="best"), "selection"),
    (lambda: PeriodicConfig(client_momentum="global"), "client_momentum"),
    (lambda: SsgdConfig(reduction="median"), "reduction"),
  ],
)
def test_wrong_settings_are_refused(config, told):
  with pytest.raises(UserError, match=told):
    config()
