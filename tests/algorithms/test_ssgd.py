"""SSGD against one worker with the joint batch, a loop over workers, and itself on other mappings.

Sums in float32 are taken in another order than in the references, whose SGD is in float64. A first
step differs by 6e-8, and 20 steps with momentum 0.9 let that grow to 4e-7 in the tiny network and
to 2e-6 with Fixup, of parameters around 1 (measured): 1e-5 is asserted.
"""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import helpers.reference_ssgd as reference
import jax
import numpy as np
import optax
import pytest
from helpers import norm_rows, reference_fedavg
from helpers.binaries import PYTHONPATH
from helpers.mapping_steps import BACKENDS
from helpers.reference_fedavg import flat
from helpers.settings import built, configure, plain
from helpers.step_world import KEY, at, run_rounds, skewed

from fedjax_norm import client_mapping, norm
from fedjax_norm.algorithms.ssgd import SSGD, SsgdConfig
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.errors import UserError
from fedjax_norm.models.resnet import ResNet

SHAPE = (6, 6, 1)
SIZES = (5, 9, 12, 4)  # with batches of 4, those of the first two are padded at times
random_variables = functools.partial(reference_fedavg.random_variables, image_shape=SHAPE)
STEPS = 20
RATES = np.linspace(0.1, 0.2, STEPS, dtype=np.float32)
HEAVY = plain(batch_size=4, momentum=0.9, weight_decay=5e-3, clip_norm=1.0)
VMAP = client_mapping.create("vmap", num_clients=len(SIZES))
SPECS = {
  # So quick a decay lets the policies for running statistics differ.
  **{name: row.spec(name, decay=0.5) for name, row in norm_rows.ROWS.items()},
  "sync_bgn": norm.NormSpec("own", "NSK", groups=2, across_clients=True, decay=0.5),
  "frozen": norm.create("fixbn").frozen(),
  "brn": norm.create("brn", renorm=norm.Renorm(r_max=1.5, d_max=0.5, start=0, r_end=4, d_end=4)),
}


class World:
  """A federation of the tiny images and the models for it."""

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

  def run(self, name, config, workers=(0, 1, 2, 3)):
    """(the master after every step, the workers' states after every step, metrics of each)."""
    variables = random_variables(self.model(name))
    return run_rounds(self.algorithm(name, config), variables, self.data, RATES, clients=workers)


@pytest.fixture(scope="module")
def world(tiny_source, tiny_net):
  return World(tiny_source, tiny_net)


def close(actual, expected, step):
  actual, expected = flat(actual), flat(expected)
  assert actual.keys() == expected.keys()
  for path in expected:
    message = f"{path} after step {step}"
    np.testing.assert_allclose(actual[path], expected[path], rtol=1e-5, atol=1e-5, err_msg=message)


def close_steps(masters, expected):
  """Asserts that parameters, statistics and momentum are the same after every step."""
  count = 0
  for step, state in enumerate(expected):
    master = at(masters, step)
    close(master.variables["params"], state.params, step)
    close(master.variables.get("batch_stats", {}), state.stats, step)
    close(optax.tree.get(master.opt_state, "trace"), state.trace, step)
    count += 1
  assert count == STEPS


def distance(a, b):
  a, b = flat(a), flat(b)
  return max(np.abs(a[path] - b[path]).max() for path in a)


def parts(count):
  return dataclasses.replace(HEAVY, accumulate=count)


PROPORTIONAL = [3, 5, 6, 2]  # of 16 examples in proportion to 5, 9, 12 and 4
ALONE = ("gn", "ln", "in", "cn", "wn", "none", "fixup", "frozen")
JOINT = {
  **{
    name: (name, configure(SsgdConfig, HEAVY), [4] * 4) for name in (*ALONE, "sync_bn", "sync_bgn")
  },
  # Six places become eight in parts of two, most of which have padding and some nothing else.
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
def test_workers_are_one_with_the_joint_batch(world, case):
  """For norms that do not look across the batch, and for those of the joint batch."""
  name, config, takes = JOINT[case]
  masters, _, metrics = world.run(name, config)
  model = world.model(name.removeprefix("sync_"))
  variables, batches = random_variables(model), world.batches(takes)
  states = list(reference.joint_steps(model, HEAVY, batches, variables, RATES))
  close_steps(masters, states)
  assert distance(states[-1].params, variables["params"]) > 0.1
  counts = [int(sum(batch.mask.sum() for batch in batches(step))) for step in range(STEPS)]
  assert len(set(counts)) > 1  # the joint batch is not always full
  assert metrics.examples.tolist() == counts


WORKERS = {
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
  """(case) -> (the library's run, the reference's states) of ``WORKERS``, each made once."""
  made = {}

  def run(case):
    if case not in made:
      name, options, others = WORKERS[case]
      model = world.model(name)
      slow = reference.worker_steps(
        model, HEAVY, world.batches([4] * 4), random_variables(model), RATES, **others
      )
      made[case] = world.run(name, configure(SsgdConfig, HEAVY, **options)), list(slow)
    return made[case]

  return run


@pytest.mark.parametrize("case", WORKERS)
def test_each_worker_normalizes_by_itself(bn_runs, case):
  """Local BN: the average of the workers' gradients, by examples or (eq. 5) uniformly."""
  (masters, workers, _), states = bn_runs(case)
  close_steps(masters, states)
  if "local" in case:
    for step, state in enumerate(states):
      for worker, own in enumerate(state.own_stats):
        close(
          at(at(workers.batch_stats["Norm_0"], step), worker),
          {p[7:]: v for p, v in own.items()},
          step,
        )
  else:
    assert not jax.tree.leaves(workers)


def test_the_options_of_local_bn_do_something(world, bn_runs):
  """By the reference alone, which the test above binds the library to."""
  (_, plain), (_, other), (_, local) = map(bn_runs, list(WORKERS)[:3])
  assert distance(plain[-1].params, other[-1].params) > 1e-2
  assert distance(plain[-1].own_stats[0], local[-1].own_stats[0]) > 1e-2
  model = world.model("bn")
  uniform_mean = reference.worker_steps(
    model, HEAVY, world.batches([4] * 4), random_variables(model), RATES[:1], uniform=True
  )
  assert distance(next(uniform_mean).stats, other[0].stats) > 1e-3


def test_local_bn_is_not_bn_of_the_joint_batch(world, bn_runs):
  model = world.model("bn")
  slow = reference.joint_steps(model, HEAVY, world.batches([4] * 4), random_variables(model), RATES)
  (masters, _, _), _ = bn_runs("bn")
  away = [distance(at(masters, i).variables["params"], s.params) for i, s in enumerate(slow)]
  assert away[0] > 1e-3
  assert away[-1] > 0.1


def test_parts_change_local_bn(world, bn_runs):
  masters, _, _ = world.run("bn", configure(SsgdConfig, parts(2)))
  whole = bn_runs("bn")[0][0]
  assert distance(at(masters, 0).variables, at(whole, 0).variables) > 1e-3


def test_frozen_statistics_stay_bit_by_bit(world):
  before = random_variables(world.model("frozen"))["batch_stats"]["Norm_0"]
  masters, _, _ = world.run("frozen", configure(SsgdConfig, HEAVY))
  for name, value in before.items():
    np.testing.assert_array_equal(masters.variables["batch_stats"]["Norm_0"][name][-1], value)


def test_a_joint_batch_in_proportion():
  config = configure(SsgdConfig, plain(batch_size=4), batch_split="proportional")
  assert config.step_examples(np.array(SIZES)).tolist() == PROPORTIONAL
  # An epoch is then as long for everybody (up to rounding), but for those with less than a part.
  takes = config.step_examples(np.array([400, 100, 200, 300]))
  assert takes.tolist() == [6, 2, 3, 5]
  assert config.step_examples(np.array([1000, 1])).tolist() == [8, 1]
  assert (
    configure(SsgdConfig, plain(batch_size=4)).step_examples(np.array(SIZES)).tolist() == [4] * 4
  )


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
  """The files of ``mapping_steps.py`` in a process of eight devices."""
  tests = Path(__file__).parents[1]
  folder = tmp_path_factory.mktemp("mapped")
  done = subprocess.run(
    [sys.executable, str(tests / "helpers" / "mapping_steps.py"), str(folder)],
    env={**os.environ, "PYTHONPATH": f"{PYTHONPATH}{os.pathsep}{tests}"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return folder


def test_mappings_agree(mapped):
  """16 unequal workers in lock-step on one device, and on eight with two on each."""
  runs = {name: dict(np.load(mapped / f"{name}.npz")) for name in BACKENDS}
  assert {name: run.pop("devices") for name, run in runs.items()} == {
    "vmap": 1,
    "pmap": 8,
    "shard_map": 8,
  }
  expected = runs.pop("vmap")
  for mapping, run in runs.items():
    assert run.keys() == expected.keys()
    for path in expected:
      np.testing.assert_allclose(
        run[path], expected[path], rtol=1e-5, atol=1e-5, err_msg=f"{mapping}: {path}"
      )


# The tiny network: a 3x3x1x8 kernel, gamma and beta of 8, an 8x4 kernel and 4 biases; statistics of
# 2 x 8.
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
def test_what_does_not_fit_together_is_refused(world, name, options, words):
  with pytest.raises(UserError, match=words):
    world.algorithm(name, configure(SsgdConfig, HEAVY, **options))


def test_sync_bn_needs_lockstep(world):
  with pytest.raises(UserError, match="lock-step"):
    world.algorithm(
      "sync_bn", configure(SsgdConfig, HEAVY), client_mapping.create("scan", num_clients=4)
    )
