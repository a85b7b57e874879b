"""SSGD against SGD on the joint batch, and against a loop over clients.

The library adds up in float32 and in another order than the references, whose SGD is in float64.
The parameters, which are around 1, differ by 6e-8 after the first step, and after 20 steps with
momentum 0.9 by 4e-7 in the small network and 2e-6 with Fixup (measured): the tolerance is 1e-5.
"""

import dataclasses
import functools

import helpers.reference_ssgd as reference
import jax
import numpy as np
import optax
import pytest
from helpers import norm_rows, reference_fedavg
from helpers.reference_fedavg import distance
from helpers.settings import built, configure, plain
from helpers.step_world import KEY, at, run_rounds, skewed

from fedjax_norm import client_mapping, norm
from fedjax_norm.algorithms.ssgd import SSGD, SsgdConfig
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.errors import UserError
from fedjax_norm.models.resnet import ResNet

SHAPE = (6, 6, 1)


SIZES = (5, 9, 12, 4)  # with batches of 4, some batches of the first two clients are padded


close = functools.partial(reference_fedavg.close, rtol=1e-5, atol=1e-5)
random_variables = functools.partial(reference_fedavg.random_variables, image_shape=SHAPE)


STEPS = 20


RATES = np.linspace(0.1, 0.2, STEPS, dtype=np.float32)


HEAVY = plain(batch_size=4, momentum=0.9, weight_decay=5e-3, clip_norm=1.0)


VMAP = client_mapping.create("vmap", num_clients=len(SIZES))


SPECS = {
  # A decay with which the policies for running statistics differ.
  **{name: row.spec(name, decay=0.5) for name, row in norm_rows.ROWS.items()},
  "sync_bgn": norm.NormSpec("own", "NSK", groups=2, across_clients=True, decay=0.5),
  "frozen": norm.create("fixbn").frozen(),
  "brn": norm.create("brn", renorm=norm.Renorm(r_max=1.5, d_max=0.5, start=0, r_end=4, d_end=4)),
}


class World:
  """The small federated data set and the models for it."""

  def __init__(self, source, net):
    self.source, self.net = source, net
    self.transform = make_transforms(Preprocess(augment="none"), source.train.images)[0]
    self.data = skewed(source, SIZES)

  def model(self, name):
    if name == "fixup":
      return ResNet((1,), 4, SPECS[name], 4)
    return self.net(norm=SPECS[name])

  def algorithm(self, name, config, mapping=VMAP):
    return built(SSGD, config, self.model(name), mapping, self.data, self.transform, SHAPE)

  def batches(self, takes):
    return reference.batches_of(self.data, takes, self.transform, KEY)

  def run(self, name, config):
    """Returns (server states, client states, metrics), each after every step."""
    variables = random_variables(self.model(name))
    return run_rounds(self.algorithm(name, config), variables, self.data, RATES)


@pytest.fixture(scope="module")
def world(tiny_source, tiny_net):
  return World(tiny_source, tiny_net)


def close_steps(servers, expected):
  """Asserts that parameters, statistics and momentum are equal after every step."""
  count = 0
  for step, state in enumerate(expected):
    server = at(servers, step)
    close(server.variables["params"], state.params, step)
    close(server.variables.get("batch_stats", {}), state.stats, step)
    close(optax.tree.get(server.opt_state, "trace"), state.trace, step)
    count += 1
  assert count == STEPS


def parts(count):
  return dataclasses.replace(HEAVY, accumulate=count)


PROPORTIONAL = [3, 5, 6, 2]  # of 16 examples in proportion to 5, 9, 12 and 4


BATCH_FREE = ("gn", "ln", "in", "cn", "wn", "none", "fixup", "frozen")


JOINT = {
  **{
    name: (name, configure(SsgdConfig, HEAVY), [4] * 4)
    for name in (*BATCH_FREE, "sync_bn", "sync_bgn")
  },
  # Batches of six become eight, in four parts of two, most of which have padding.
  "gn, proportional, in parts": (
    "gn",
    configure(SsgdConfig, parts(4), batch_split="proportional"),
    PROPORTIONAL,
  ),
  "sync_bn, proportional": (
    "sync_bn",
    configure(SsgdConfig, HEAVY, batch_split="proportional", batch_stats="moments"),
    PROPORTIONAL,
  ),
}


@pytest.mark.parametrize("case", JOINT)
def test_equals_sgd_on_the_joint_batch(world, case):
  """For norms that do not use the batch, and for norms across clients."""
  name, config, takes = JOINT[case]
  servers, _, metrics = world.run(name, config)
  model = world.model(name.removeprefix("sync_"))
  variables, batches = random_variables(model), world.batches(takes)
  states = list(reference.joint_steps(model, HEAVY, batches, variables, RATES))
  close_steps(servers, states)
  assert distance(states[-1].params, variables["params"]) > 0.1
  counts = [int(sum(batch.mask.sum() for batch in batches(step))) for step in range(STEPS)]
  assert len(set(counts)) > 1  # some joint batches have padding
  assert metrics.examples.tolist() == counts


LOCAL_BN = {
  "bn": ("bn", {}, {}),
  "bn, uniform moments": (
    "bn",
    {"weighting": "uniform", "batch_stats": "moments"},
    {"uniform": True, "policy": "moments"},
  ),
  "bn, local": ("bn", {"batch_stats": "local"}, {"policy": "local"}),
  "brn": ("brn", {}, {}),
}


@pytest.fixture(scope="module")
def bn_runs(world):
  """Returns a cached function: case of ``LOCAL_BN`` -> (run of the library, reference's states)."""
  runs = {}

  def run(case):
    if case not in runs:
      name, options, reference_options = LOCAL_BN[case]
      model = world.model(name)
      slow = reference.worker_steps(
        model, HEAVY, world.batches([4] * 4), random_variables(model), RATES, **reference_options
      )
      runs[case] = world.run(name, configure(SsgdConfig, HEAVY, **options)), list(slow)
    return runs[case]

  return run


@pytest.mark.parametrize("case", LOCAL_BN)
def test_local_bn_equals_a_loop_over_clients(bn_runs, case):
  """The average of the clients' gradients is weighted by examples or (eq. 5) uniform."""
  (servers, clients, _), states = bn_runs(case)
  close_steps(servers, states)
  if "local" in case:
    for step, state in enumerate(states):
      for k, local in enumerate(state.local_stats):
        close(
          at(at(clients.batch_stats["Norm_0"], step), k), {p[7:]: v for p, v in local.items()}, step
        )
  else:
    assert not jax.tree.leaves(clients)


def test_the_options_of_local_bn_change_the_result(world, bn_runs):
  """Uses the reference only, which the library equals by the test above."""
  (_, plain), (_, other), (_, local) = map(bn_runs, list(LOCAL_BN)[:3])
  assert distance(plain[-1].params, other[-1].params) > 1e-2
  assert distance(plain[-1].local_stats[0], local[-1].local_stats[0]) > 1e-2
  model = world.model("bn")
  uniform_mean = reference.worker_steps(
    model, HEAVY, world.batches([4] * 4), random_variables(model), RATES[:1], uniform=True
  )
  assert distance(next(uniform_mean).stats, other[0].stats) > 1e-3


def test_local_bn_is_not_bn_of_the_joint_batch(world, bn_runs):
  model = world.model("bn")
  slow = reference.joint_steps(model, HEAVY, world.batches([4] * 4), random_variables(model), RATES)
  (servers, _, _), _ = bn_runs("bn")
  distances = [distance(at(servers, i).variables["params"], s.params) for i, s in enumerate(slow)]
  assert distances[0] > 1e-3
  assert distances[-1] > 0.1


def test_accumulation_changes_local_bn(world, bn_runs):
  servers, _, _ = world.run("bn", configure(SsgdConfig, parts(2)))
  whole = bn_runs("bn")[0][0]
  assert distance(at(servers, 0).variables, at(whole, 0).variables) > 1e-3


def test_frozen_statistics_do_not_change(world):
  before = random_variables(world.model("frozen"))["batch_stats"]["Norm_0"]
  servers, _, _ = world.run("frozen", configure(SsgdConfig, HEAVY))
  for name, value in before.items():
    np.testing.assert_array_equal(servers.variables["batch_stats"]["Norm_0"][name][-1], value)


def test_batch_sizes_in_proportion_to_the_data():
  config = configure(SsgdConfig, plain(batch_size=4), batch_split="proportional")
  assert config.step_examples(np.array(SIZES)).tolist() == PROPORTIONAL
  # Epochs have the same number of steps up to rounding, except for clients with a batch of one.
  takes = config.step_examples(np.array([400, 100, 200, 300]))
  assert takes.tolist() == [6, 2, 3, 5]
  assert config.step_examples(np.array([1000, 1])).tolist() == [8, 1]
  assert (
    configure(SsgdConfig, plain(batch_size=4)).step_examples(np.array(SIZES)).tolist() == [4] * 4
  )


# The small network: a 3x3x1x8 kernel, gamma and beta of 8, an 8x4 kernel and 4 biases; 2 x 8
# statistics.
PARAMS = 4 * (72 + 16 + 36)


STATS = 4 * 16


@pytest.mark.parametrize(
  ("name", "options", "up", "trips"),
  [
    ("gn", {}, PARAMS, 1),
    ("bn", {}, PARAMS + STATS, 1),
    ("bn", {"batch_stats": "local"}, PARAMS, 1),
    # Count, 8 means and 8 m2 forward, 2 x 8 sums backward, for the one norm layer.
    ("sync_bn", {}, PARAMS + STATS + 4 * 17 + 4 * 16, 3),
  ],
)
def test_ledger_by_hand(world, name, options, up, trips):
  algorithm = world.algorithm(name, configure(SsgdConfig, HEAVY, **options))
  steps = algorithm.local_steps(np.array(SIZES))
  assert steps.tolist() == [1] * 4
  assert tuple(algorithm.cost.of_round(steps.tolist())) == (4 * up, 4 * up, trips)


@pytest.mark.parametrize(
  ("name", "options", "words"),
  [
    ("gn", {"batch_stats": "moments"}, "keeps no running statistics"),
    ("sync_bn", {"batch_stats": "recalibrate"}, "recalibrate"),
    ("sync_bn", {"accumulate": 2}, "accumulate=2 processes it in parts"),
    ("bn", {"weighting": "processed"}, "unknown weighting 'processed'"),
    ("bn", {"batch_split": "half"}, "unknown batch_split 'half'"),
    ("bn", {"batch_stats": "sum"}, "unknown batch_stats 'sum'"),
  ],
)
def test_contradicting_options_are_refused(world, name, options, words):
  with pytest.raises(UserError, match=words):
    world.algorithm(name, configure(SsgdConfig, HEAVY, **options))


def test_sync_bn_needs_lockstep(world):
  with pytest.raises(UserError, match="lock-step"):
    world.algorithm(
      "sync_bn", configure(SsgdConfig, HEAVY), client_mapping.create("scan", num_clients=4)
    )
