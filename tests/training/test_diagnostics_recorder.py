"""The diagnostics of a run: their values, and that measuring them does not change the run."""

import dataclasses

import chex
import jax
import numpy as np
import optax
import pytest
from helpers.settings import configure, plain, program_of

from fedjax_norm.algorithms.averaging import averaging
from fedjax_norm.algorithms.contract import Method
from fedjax_norm.algorithms.costs.ledger import TrafficCounter
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig, fedavg
from fedjax_norm.algorithms.periodic_averaging import ServerState
from fedjax_norm.algorithms.round_algorithm import Views
from fedjax_norm.data.federated import federate
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.sources import digits
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation import diagnostics
from fedjax_norm.evaluation.classification import Scores
from fedjax_norm.evaluation.config import EvaluationConfig
from fedjax_norm.norm import create
from fedjax_norm.training import diagnostics_recorder
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.diagnostics_recorder import (
  _sample,
  accuracy_by_partition,
  accuracy_on_blocks,
  make_diagnose,
)
from fedjax_norm.training.loop import train
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.checkpoint import Checkpoints
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import make_task

LOOP = LoopConfig(4, 2)
FEW = EvaluationConfig(diagnostics=True, diagnostics_batches=2)


def test_accuracy_by_partition_by_hand():
  count = np.array([10.0, 2.0])
  first, second = (Scores(count, np.array(top1), count, count) for top1 in ([8.0, 1], [1.0, 2]))
  counts = np.array([[4, 0], [1, 3]])
  expected = [[0.8, 0.25 * 0.8 + 0.75 * 0.5], [0.1, 0.25 * 0.1 + 0.75]]
  np.testing.assert_allclose(accuracy_by_partition([first, second], counts), expected)


def test_accuracy_on_blocks_is_that_of_their_test_images():
  """Figure 21: against the share of correct images among those of the block's classes."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, 50)
  right = rng.random((2, 50)) < 0.6
  scores = [
    Scores(*(np.bincount(labels, w, 6) for w in (one, one, one, np.ones(50)))) for one in right
  ]
  blocks = [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])]
  expected = [[one[np.isin(labels, block)].mean() for block in blocks[:2]] for one in right]
  found = accuracy_on_blocks(scores, blocks)
  np.testing.assert_allclose(found, [[*line, np.nan] for line in expected])


@pytest.fixture(scope="module")
def task(tiny_source, tiny_net):
  division = partitions.make("classes", tiny_source.train.labels, 3, 0, classes_per_client=2)
  return make_task(tiny_source, division, create("bn"))._replace(model=tiny_net(norm=create("bn")))


def residual_of(server, client):
  """Returns the client's momentum, the residual of these tests."""
  return optax.tree.get(client.momentum, "trace")


def make(task, config=FEW):
  """FedAvg with the global model plus the momentum as each client's model."""

  def client_model(server, client):
    params = optax.tree.add(server.variables["params"], residual_of(server, client))
    return {**server.variables, "params": params}

  def build(config, setup):
    algorithm = averaging(fedavg(config, setup), config, setup)
    return algorithm._replace(views=Views(traveling=client_model, residual=residual_of))

  fed = configure(FedAvgConfig, plain(batch_size=8, momentum=0.5), client_momentum="local")
  program, _ = program_of(Method("own", FedAvgConfig, build, ""), task, fed, LOOP, lr=0.05)
  return diagnosed(program, task, config, 8) if config else program


def diagnosed(program, task, config, batch_size):
  """Returns the program with diagnostics of four test images."""
  models = {name: phase.model for name, phase in program.phases.items()}
  mapping = program.mapping.one_by_one()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(diagnostics_recorder, "_IMAGES", 4)
    return program._replace(diagnose=make_diagnose(task, models, config, batch_size, mapping))


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
  """(program, run folder, outcome)."""
  program, path = make(task), tmp_path_factory.mktemp("whole")
  with RunFolder.open(path, {}) as folder:
    return program, path, train(program, LOOP, task.data, initial_variables(task, 0), folder)


def test_values_are_those_of_the_client_models(task, whole):
  _, _, outcome = whole
  last = {(r["quantity"], r["place"]): r["value"] for r in outcome.diagnostics if r["round"] == 4}
  states = [jax.tree.map(lambda a, k=k: a[k], outcome.clients.arrays) for k in range(3)]
  residuals = [residual_of(None, state) for state in states]
  shared = outcome.variables["params"]
  params = [jax.tree.map(np.add, shared, residual) for residual in residuals]
  expected = {
    "residual_update_delta": diagnostics.residual_update_delta(residuals, shared),
    "local_update_delta": diagnostics.local_update_delta(params, shared),
    "weight_difference": diagnostics.weight_difference(params),
  }
  for quantity, value in expected.items():
    np.testing.assert_allclose(last[quantity, ""], value, rtol=1e-5)
    assert value > 0
  # On evenly spaced test images, over all pairs.
  images = task.eval_transform(task.source.test.images[[0, 7, 13, 20]])
  models = [{**outcome.variables, "params": one} for one in params]
  neurons = [
    diagnostics.neuron_difference(task.model, ("Norm_0",), models[i], models[j], images)["Norm_0"]
    for i, j in ((0, 1), (0, 2), (1, 2))
  ]
  np.testing.assert_allclose(last["neuron_difference", ""], np.mean(neurons), rtol=1e-4)
  channels = [last["mean_divergence", f"Norm_0:{c}"] for c in range(8)]
  np.testing.assert_allclose(last["mean_divergence_median", "Norm_0"], np.median(channels))
  gradients = {
    place: v for (quantity, place), v in last.items() if quantity == "gradient_deviation"
  }
  assert gradients.keys() == {"Conv_0", "Norm_0", "Dense_0"}
  assert min(gradients.values()) > 0.01
  places = {place for quantity, place in last if quantity == "accuracy"}
  assert places == {f"{i} on {j}" for i in range(3) for j in range(3)}
  places = {place for quantity, place in last if quantity == "accuracy_on_blocks"}
  assert places == {f"{i} on {block}" for i in range(3) for block in ("0-1", "2-2", "3-3")}


def test_local_updates_are_measured_only_just_before_an_average(task, whole):
  program, _, outcome = whole
  algorithm = program.phases["explore"].algorithm
  algorithm = algorithm._replace(averages_next=lambda server: server.due)
  quantities = []
  for due in (True, False):
    server = ServerState(outcome.variables, np.int32(3), np.bool_(due), TrafficCounter.zeros())
    rows = program.diagnose(
      "explore", algorithm, server, outcome.clients, task.data, 4, jax.random.key(0)
    )
    quantities.append({row["quantity"] for row in rows})
  assert quantities[0] - quantities[1] == {"local_update_delta"}


def test_diagnostics_change_no_bit_of_the_run(task, whole):
  plain = train(make(task, None), LOOP, task.data, initial_variables(task, 0))
  chex.assert_trees_all_equal(plain.variables, whole[2].variables)
  assert plain.diagnostics == []


def test_a_resumed_run_records_each_evaluation_once(task, whole, tmp_path, monkeypatch):
  program, path, outcome = whole
  save = Checkpoints.save

  def killed(self, round_, state):
    if round_ == 4:
      raise KeyboardInterrupt
    save(self, round_, state)

  with monkeypatch.context() as patch, RunFolder.open(tmp_path, {}) as folder:
    patch.setattr(Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
      train(program, LOOP, task.data, initial_variables(task, 0), folder)
  text = (path / "diagnostics.csv").read_text()
  assert (tmp_path / "diagnostics.csv").read_text() == text
  # The last line, of the evaluation without a checkpoint, is incomplete.
  (tmp_path / "diagnostics.csv").write_text(text[:-5])
  with RunFolder.open(tmp_path, {}) as folder:
    resumed = train(program, LOOP, task.data, initial_variables(task, 0), folder)
  assert (tmp_path / "diagnostics.csv").read_text() == text
  assert resumed.diagnostics == outcome.diagnostics


def test_label_skew_increases_the_divergence(tiny_net):
  """Paper 004, fig. 4, in small: inputs of the first norm, digits, five clients."""
  source, spec, medians = digits.load(), create("none"), {}
  iid, skewed = (
    partitions.make(name, source.train.labels, 5, 0, **options)
    for name, options in (("iid", {}), ("classes", {"classes_per_client": 2}))
  )
  task = make_task(source, iid, spec)._replace(model=tiny_net(norm=spec, num_classes=10))
  fed = configure(FedAvgConfig, plain(batch_size=64))
  few = dataclasses.replace(
    FEW, diagnostics_batches=4
  )  # less than an epoch, so that all samples have one size
  program, _ = program_of(FEDAVG, task, fed, LOOP, lr=0.05)
  program = diagnosed(program, task, few, 64)
  algorithm = program.phases["explore"].algorithm
  server = algorithm.init(initial_variables(task, 0))
  store = ClientStore(algorithm.init_client(server), 5)
  for name, data in (("iid", task.data), ("classes", federate(source.train, skewed))):
    rows = program.diagnose("explore", algorithm, server, store, data, 1, jax.random.key(0))
    values = {(row["quantity"], row["place"]): row["value"] for row in rows}
    for moment in ("mean", "variance"):
      medians[name, moment] = values[f"{moment}_divergence_median", "Norm_0"]
  assert medians["classes", "mean"] > 3 * medians["iid", "mean"]
  assert medians["classes", "variance"] > 2 * medians["iid", "variance"]


def test_a_sample_has_distinct_examples_of_one_client(task):
  data, key = task.data, jax.random.key(3)
  ids = data.order[data.offsets[1] : data.offsets[1] + data.sizes[1]]
  few = _sample(data, 1, 5, key)
  assert few.clients.tolist() == [1]
  assert few.sizes.tolist() == [5]
  assert len(set(few.ids.tolist()) & set(ids.tolist())) == 5
  np.testing.assert_array_equal(few.labels, data.labels[few.ids])
  np.testing.assert_array_equal(_sample(data, 1, 5, key).ids, few.ids)
  everything = _sample(data, 1, 100, key)
  assert everything.ids[: len(ids)].tolist() == sorted(ids.tolist())


@pytest.mark.parametrize(
  ("options", "sentence"),
  [
    ({"diagnostics_layer": "Norm_7"}, "choose one of Norm_0"),
    ({"diagnostics_batches": 0}, "diagnostics_batches is 0"),
  ],
)
def test_invalid_options_are_refused(task, options, sentence):
  with pytest.raises(UserError, match=sentence):
    make(task, dataclasses.replace(FEW, **options))
