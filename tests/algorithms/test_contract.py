"""What every method of the registry keeps to, whatever it computes.

A method that is added to the registry joins by itself. Each runs once with the mapping that
``auto`` chooses, which on the two devices of the tests is shard_map for all whose clients can run
side by side; the other tests look at that run, or repeat a part of it.
"""

import dataclasses
import functools
import itertools

import chex
import helpers.reference_decentralized as reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.contract_world import (
  ACTIVATION,
  CLIENTS,
  COHORT,
  FIRST_PARAMS,
  LABEL,
  OWNERS,
  PARAMS,
  STATS,
  Crossing,
  Net,
  Replay,
  Whole,
  make_config,
  run_again,
  run_whole,
  watched,
)
from helpers.settings import built, configure

from fedjax_norm import client_mapping, tree_leaves
from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.errors import UserError
from fedjax_norm.norm import create
from fedjax_norm.training.build_program import fill_defaults, make_program
from fedjax_norm.training.loop import train
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import Task, make_task


@pytest.fixture(scope="module")
def task(tiny_source) -> Task:
  return make_task(tiny_source, OWNERS, model=Net(create("fixbn")))


@pytest.fixture(scope="module", params=METHODS)
def whole(request, task) -> Whole:
  """An undisturbed run."""
  return run_whole(METHODS[request.param], task)


@pytest.fixture(scope="module")
def replay(whole) -> Replay | UserError:
  """A part of the run by another mapping, or the refusal of that."""
  try:
    return run_again(whole)
  except UserError as error:
    return error


def test_the_phase_changes(whole):
  """What the statistics are at the freeze they stay, and the rest goes on."""
  assert [row["phase"] for row in whole.outcome.rows] == ["explore", "calibrate"]
  assert whole.outcome.frozen_at == 2
  (middle, _), (end, _) = whole.states
  start = whole.start()[0].variables
  chex.assert_trees_all_equal(end.variables["batch_stats"], middle.variables["batch_stats"])
  for before, after in ((start, middle.variables), (middle.variables, end.variables)):
    for path, leaf in tree_leaves.flatten(before["params"]).items():
      assert (leaf != tree_leaves.flatten(after["params"])[path]).any(), path
  moved = tree_leaves.flatten(middle.variables["batch_stats"])
  assert all(
    (leaf != moved[p]).any() for p, leaf in tree_leaves.flatten(start["batch_stats"]).items()
  )


def test_a_stopped_run_goes_on_with_the_same_bits(whole, tmp_path):
  _, task, program, config, outcome, *_ = whole
  variables = initial_variables(task, 0)

  def stop(round_, row, model):
    raise OSError("stopped")

  with RunFolder.open(tmp_path / "run", {}) as folder, pytest.raises(OSError, match="stopped"):
    train(program, config, task.data, variables, folder, on_evaluation=stop)
  with RunFolder.open(tmp_path / "run", {}) as folder:
    assert [row["round"] for row in folder.rows()] == [2]
    resumed = train(program, config, task.data, variables, folder)
  chex.assert_trees_all_equal(resumed.variables, outcome.variables)
  chex.assert_trees_all_equal(resumed.clients.arrays, outcome.clients.arrays)
  chex.assert_trees_all_equal(
    *({**rows[-1], "seconds": 0} for rows in (resumed.rows, outcome.rows))
  )
  assert all(f._cache_size() == 1 for f in program.intervals.values())


def test_shapes_and_types_stay(whole):
  """Every array comes back as it went in, weak types too."""
  cohort = jnp.asarray(whole.cohorts[0])
  server, clients = whole.start()
  clients = jax.tree.map(lambda a: jnp.asarray(a)[cohort], clients)
  for phase in whole.program.phases.values():
    into = jax.eval_shape(lambda *states: states, server, clients)
    *out, _ = jax.eval_shape(phase.algorithm.round, server, clients, cohort, whole.context(0))
    assert jax.tree.structure(into) == jax.tree.structure(tuple(out))
    pairs = zip(jax.tree.leaves_with_path(into), jax.tree.leaves(out), strict=True)
    for (path, before), after in pairs:
      assert (before.shape, before.dtype, before.weak_type) == (
        after.shape,
        after.dtype,
        after.weak_type,
      ), jax.tree_util.keystr(path)


def test_who_takes_part_changes_and_nobody_else(whole):
  method, task = whole.method, whole.task
  if method.all_clients:
    with pytest.raises(UserError, match=f"every client takes part in each round of {method.name};"):
      make_program(method, task, make_config(method, cohort=COHORT))
    return
  assert whole.cohorts.shape == (4, COHORT)
  clients = whole.states[0][1]
  absent = np.setdiff1d(np.arange(CLIENTS), whole.cohorts[:2])
  assert len(absent)
  here = functools.partial(jax.tree.map, lambda a: a[absent])
  chex.assert_trees_all_equal(here(clients), here(whole.start()[1]))
  with pytest.raises(UserError, match="cohort of 6 cannot be drawn from 5 clients"):
    make_program(method, task, make_config(method, cohort=6))


def test_mappings_agree_and_padding_is_nobody(whole, replay):
  """Counts are the same exactly, the rest to float tolerance; or the mapping is refused."""
  if whole.method.sequential(fill_defaults(whole.method, whole.task, whole.config)):
    assert str(replay) == (
      f"the clients of {whole.method.name} run sequentially; drop --backend=vmap and --chunk."
    )
    return
  assert whole.program.mapping.backend == "shard_map"
  row, metrics = whole.outcome.rows[0], replay.metrics
  assert metrics.examples == row["examples"]
  np.testing.assert_allclose(metrics.loss / metrics.examples, row["train_loss"], rtol=1e-4)
  for here, there in zip((replay.server, replay.clients), whole.states[0], strict=True):
    assert jax.tree.structure(here) == jax.tree.structure(there)
    pairs = zip(jax.tree.leaves_with_path(here), jax.tree.leaves(there), strict=True)
    for (path, one), other in pairs:
      atol = 1e-5 if jnp.issubdtype(one.dtype, jnp.inexact) else 0
      np.testing.assert_allclose(
        one, other, rtol=10 * atol, atol=atol, err_msg=jax.tree_util.keystr(path)
      )


# --- The ledger: (bytes up, bytes down) of the rounds before each evaluation, or of the first. ---


def of_averaging(whole, replay):
  """What a client exchanges, as often as one takes part; frozen statistics go down alone."""
  by_phase = {one.moving: (one.up + one.moving * one.stats, one.down) for one in whole.crossings}
  assert len(whole.crossings) == len(by_phase) == 2
  costs = [whole.program.phases[name].algorithm.cost for name in ("explore", "calibrate")]
  assert [(cost.up, cost.down) for cost in costs] == [by_phase[True], by_phase[False]]
  times = 2 * whole.cohorts.shape[1]
  return [(times * up, times * down) for up, down in (by_phase[True], by_phase[False])]


def of_sparse_updates(whole, replay):
  """What an encoder makes of the updates; statistics are averaged in every step."""
  assert [len(shares) for shares in replay.shares] == [CLIENTS] * 2
  sums = [functools.reduce(optax.tree.add, shares) for shares in replay.shares]
  up, down = (
    sum(len(reference.encode(tree_leaves.flatten(jax.tree.map(np.asarray, one)))) for one in sent)
    for sent in (itertools.chain(*replay.shares), sums)
  )
  assert up < 2 * CLIENTS * PARAMS
  return [(up + 2 * CLIENTS * STATS, CLIENTS * down + 2 * CLIENTS * STATS)]


def of_whole_models(times: int):
  """Models that go up and down so often between evaluations."""
  model = PARAMS + STATS
  return lambda whole, replay: [(times * model, times * model), (times * PARAMS, times * model)]


def of_turns(size: int, *, first: bool):
  """Labels up, activations up and gradients down, and a client's part of so many bytes.

  Args:
    size: of the part.
    first: whether it travels for each turn, or for those alone whose client is another than before.
  """

  def count(whole, replay):
    turns = whole.cohorts.reshape(2, -1)
    before = np.append(-1, turns.ravel()[:-1]).reshape(turns.shape)
    travels = (turns >= 0) if first else (before >= 0) & (before != turns)
    sizes = zip([row["examples"] for row in whole.outcome.rows], travels.sum(1), strict=True)
    return [
      (n * (ACTIVATION + LABEL) + times * size, n * ACTIVATION + times * size) for n, times in sizes
    ]

  return count


COUNTS = {
  "asgd": of_whole_models(2),  # one worker a round
  "periodic": of_whole_models(CLIENTS),  # after two steps each
  "gaia": of_sparse_updates,
  "dgc": of_sparse_updates,
  "split": of_turns(2 * FIRST_PARAMS + STATS, first=False),  # with the momentum
  "splitfed_v1": of_turns(FIRST_PARAMS + STATS, first=True),
  "splitfed_v2": of_turns(FIRST_PARAMS + STATS, first=True),
}


def test_the_ledger_is_the_bytes_that_cross(whole, replay):
  """A method that is not one of averaging needs a count of its own in ``COUNTS``."""
  count = of_averaging if whole.crossings else COUNTS[whole.method.name]
  told = [np.array((row["bytes_up"], row["bytes_down"])) for row in whole.outcome.rows]
  told = [told[0].tolist(), (told[1] - told[0]).tolist()]
  expected = [list(map(int, pair)) for pair in count(whole, replay)]
  assert told[: len(expected)] == expected


# Options: what of a path does not go up and down, and whether statistics cross.
KEPT = (
  ({"batch_stats": "local"}, "", "batch_stats", False),
  ({"batch_stats": "recalibrate"}, "", "batch_stats", False),
  ({"fedbn": True}, "Norm_0", "Norm_0", False),
  ({"frozen_paths": frozenset({"Conv_0/kernel"})}, "['Conv_0']['kernel']", "", True),
)


def test_what_stays_is_not_charged(whole):
  """Of averaging methods; nothing is compiled."""
  if not whole.crossings:
    return
  method, task = METHODS[whole.method.name], whole.task
  for options, sent, received, stats_cross in KEPT:
    if not all(hasattr(whole.config, name) for name in options):
      continue
    seen: list[Crossing] = []
    config = dataclasses.replace(configure(method.config, batch_size=4), **options)
    mapping = client_mapping.create("scan", num_clients=COHORT)
    setup = (Net(create("bn")), mapping, task.data, task.transform, task.image_shape)
    algorithm = built(watched(method, seen, sent, received), config, *setup)
    seen.clear()

    def one_round(variables, cohort, algorithm=algorithm):
      server = algorithm.init(variables)
      one = algorithm.init_client(server)
      clients = jax.tree.map(lambda a: jnp.stack([a] * COHORT), one)
      return algorithm.round(server, clients, cohort, whole.context(0))

    jax.eval_shape(one_round, initial_variables(task, 0), jnp.arange(COHORT))
    (crossing,) = {*seen}
    up = crossing.up + stats_cross * crossing.stats
    assert (algorithm.cost.up, algorithm.cost.down) == (up, crossing.down), options
