"""Properties that every method of the registry has.

A new method of the registry is tested automatically. Each method runs once with the mapping that
``auto`` chooses, which is shard_map on the two devices of the tests if clients can run in parallel.
The other tests examine that run or repeat a part of it.
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
  Exchange,
  Net,
  Replay,
  Whole,
  make_config,
  recorded,
  run_again,
  run_whole,
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
  """A complete run."""
  return run_whole(METHODS[request.param], task)


@pytest.fixture(scope="module")
def replay(whole) -> Replay | UserError:
  """A part of the run with another mapping, or the error if the method refuses that mapping."""
  try:
    return run_again(whole)
  except UserError as error:
    return error


def test_the_phase_changes(whole):
  """The statistics do not change after the freeze, and the parameters do."""
  assert [row["phase"] for row in whole.outcome.rows] == ["explore", "calibrate"]
  assert whole.outcome.frozen_at == 2
  (middle, _), (end, _) = whole.states
  start = whole.start()[0].variables
  chex.assert_trees_all_equal(end.variables["batch_stats"], middle.variables["batch_stats"])
  for before, after in ((start, middle.variables), (middle.variables, end.variables)):
    for path, leaf in tree_leaves.flatten(before["params"]).items():
      assert (leaf != tree_leaves.flatten(after["params"])[path]).any(), path
  stats = tree_leaves.flatten(middle.variables["batch_stats"])
  assert all(
    (leaf != stats[p]).any() for p, leaf in tree_leaves.flatten(start["batch_stats"]).items()
  )


def test_a_resumed_run_has_the_same_bits(whole, tmp_path):
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


def test_a_round_keeps_shapes_and_types(whole):
  """Every state array keeps its shape, dtype and weak type."""
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


def test_only_clients_of_the_cohort_change(whole):
  method, task = whole.method, whole.task
  if method.all_clients:
    with pytest.raises(UserError, match=f"every client takes part in each round of {method.name};"):
      make_program(method, task, make_config(method, cohort=COHORT))
    return
  assert whole.cohorts.shape == (4, COHORT)
  clients = whole.states[0][1]
  absent = np.setdiff1d(np.arange(CLIENTS), whole.cohorts[:2])
  assert len(absent)
  of_absent = functools.partial(jax.tree.map, lambda a: a[absent])
  chex.assert_trees_all_equal(of_absent(clients), of_absent(whole.start()[1]))
  with pytest.raises(UserError, match="cohort of 6 cannot be drawn from 5 clients"):
    make_program(method, task, make_config(method, cohort=6))


def test_mappings_agree_and_padding_changes_nothing(whole, replay):
  """Counts are equal and the rest is equal to float tolerance, or the mapping is refused."""
  if whole.method.sequential(fill_defaults(whole.method, whole.task, whole.config)):
    assert str(replay) == (
      f"the clients of {whole.method.name} run sequentially; drop --backend=vmap and --chunk."
    )
    return
  if jax.device_count() > 1:  # else the two mappings differ by the chunk only
    assert whole.program.mapping.backend == "shard_map"
  row, metrics = whole.outcome.rows[0], replay.metrics
  assert metrics.examples == row["examples"]
  np.testing.assert_allclose(metrics.loss / metrics.examples, row["train_loss"], rtol=1e-4)
  for mine, theirs in zip((replay.server, replay.clients), whole.states[0], strict=True):
    assert jax.tree.structure(mine) == jax.tree.structure(theirs)
    pairs = zip(jax.tree.leaves_with_path(mine), jax.tree.leaves(theirs), strict=True)
    for (path, one), other in pairs:
      atol = 1e-5 if jnp.issubdtype(one.dtype, jnp.inexact) else 0
      np.testing.assert_allclose(
        one, other, rtol=10 * atol, atol=atol, err_msg=jax.tree_util.keystr(path)
      )


# --- Expected (bytes up, bytes down) between evaluations, or before the first one. ---


def of_averaging(whole, replay):
  """Counts a client's exchange for each participation; frozen statistics are only sent down."""
  by_phase = {
    one.updates_stats: (one.up + one.updates_stats * one.stats, one.down) for one in whole.exchanges
  }
  assert len(whole.exchanges) == len(by_phase) == 2
  costs = [whole.program.phases[name].algorithm.cost for name in ("explore", "calibrate")]
  assert [(cost.up, cost.down) for cost in costs] == [by_phase[True], by_phase[False]]
  times = 2 * whole.cohorts.shape[1]
  return [(times * up, times * down) for up, down in (by_phase[True], by_phase[False])]


def of_sparse_updates(whole, replay):
  """Encodes the updates; statistics are averaged in every step."""
  assert [len(updates) for updates in replay.updates] == [CLIENTS] * 2
  sums = [functools.reduce(optax.tree.add, updates) for updates in replay.updates]
  up, down = (
    sum(len(reference.encode(tree_leaves.flatten(jax.tree.map(np.asarray, one)))) for one in sent)
    for sent in (itertools.chain(*replay.updates), sums)
  )
  assert up < 2 * CLIENTS * PARAMS
  return [(up + 2 * CLIENTS * STATS, CLIENTS * down + 2 * CLIENTS * STATS)]


def of_whole_models(times: int):
  """Counts a number of whole models in both directions between evaluations."""
  model = PARAMS + STATS
  return lambda whole, replay: [(times * model, times * model), (times * PARAMS, times * model)]


def of_turns(size: int, *, first: bool):
  """Counts labels and activations up, gradients down, and the hand-over of client parts.

  Args:
    size: bytes of a client part.
    first: whether every turn has a hand-over, or only turns after those of another client.
  """

  def count(whole, replay):
    turns = whole.cohorts.reshape(2, -1)
    before = np.append(-1, turns.ravel()[:-1]).reshape(turns.shape)
    hand_overs = (turns >= 0) if first else (before >= 0) & (before != turns)
    sizes = zip([row["examples"] for row in whole.outcome.rows], hand_overs.sum(1), strict=True)
    return [
      (n * (ACTIVATION + LABEL) + times * size, n * ACTIVATION + times * size) for n, times in sizes
    ]

  return count


COUNTS = {
  "asgd": of_whole_models(2),  # one worker per round
  "periodic": of_whole_models(CLIENTS),  # after every two steps
  "gaia": of_sparse_updates,
  "dgc": of_sparse_updates,
  "split": of_turns(2 * FIRST_PARAMS + STATS, first=False),  # with momentum
  "splitfed_v1": of_turns(FIRST_PARAMS + STATS, first=True),
  "splitfed_v2": of_turns(FIRST_PARAMS + STATS, first=True),
}


def test_the_ledger_counts_the_bytes_that_are_sent(whole, replay):
  """A method that does not average uploads needs a function in ``COUNTS``."""
  count = of_averaging if whole.exchanges else COUNTS[whole.method.name]
  totals = [np.array((row["bytes_up"], row["bytes_down"])) for row in whole.outcome.rows]
  totals = [totals[0].tolist(), (totals[1] - totals[0]).tolist()]
  expected = [list(map(int, pair)) for pair in count(whole, replay)]
  assert totals[: len(expected)] == expected


# (options, text in paths not uploaded, text in paths not downloaded, whether statistics are sent)
UNSENT = (
  ({"batch_stats": "local"}, "", "batch_stats", False),
  ({"batch_stats": "recalibrate"}, "", "batch_stats", False),
  ({"fedbn": True}, "Norm_0", "Norm_0", False),
  ({"frozen_paths": frozenset({"Conv_0/kernel"})}, "['Conv_0']['kernel']", "", True),
)


def test_parameters_that_stay_on_the_client_are_not_charged(whole):
  """Tests averaging methods, without compiling them."""
  if not whole.exchanges:
    return
  method, task = METHODS[whole.method.name], whole.task
  for options, sent, received, stats_sent in UNSENT:
    if not all(hasattr(whole.config, name) for name in options):
      continue
    exchanges: list[Exchange] = []
    config = dataclasses.replace(configure(method.config, batch_size=4), **options)
    mapping = client_mapping.create("scan", num_clients=COHORT)
    setup = (Net(create("bn")), mapping, task.data, task.transform, task.image_shape)
    algorithm = built(recorded(method, exchanges, sent, received), config, *setup)
    exchanges.clear()

    def one_round(variables, cohort, algorithm=algorithm):
      server = algorithm.init(variables)
      one = algorithm.init_client(server)
      clients = jax.tree.map(lambda a: jnp.stack([a] * COHORT), one)
      return algorithm.round(server, clients, cohort, whole.context(0))

    jax.eval_shape(one_round, initial_variables(task, 0), jnp.arange(COHORT))
    (exchange,) = {*exchanges}
    up = exchange.up + stats_sent * exchange.stats
    assert (algorithm.cost.up, algorithm.cost.down) == (up, exchange.down), options
