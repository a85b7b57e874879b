"""Runs with validation examples and unseen clients: columns by hand, best model, other seeds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from helpers.settings import plain, program_of

from fedjax_norm.algorithms.fedavg import FEDAVG
from fedjax_norm.data.held_out import HeldOutConfig, hold_out
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.transforms.preprocess import Preprocess
from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode, create
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.loop import train
from fedjax_norm.training.outcome import Outcome, best_index, summary
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.device_arrays import placer
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import make_task

LOOP = LoopConfig(rounds=6, eval_every=1)
UNSEEN = 2


GN = create("gn", groups=2)


def make(source, net, seed, spec=GN, **preprocess):
  """Six clients, two of which never train; a quarter of the examples of the others is held out."""
  everyone = partitions.make("iid", source.train.labels, 6, seed)
  kept, division, held_out = hold_out(source.train, everyone, HeldOutConfig(0.25, UNSEEN), seed)
  rest = {"preprocess": Preprocess(**preprocess), "held_out": held_out}
  task = make_task(source._replace(train=kept), division, spec, **rest)
  return task._replace(model=net(norm=spec))


@pytest.fixture(scope="module")
def task(make_source, tiny_net):
  return make(make_source(num_train=96, num_test=20), tiny_net, 0)


@pytest.fixture(scope="module")
def program(task):
  local = plain(batch_size=8, momentum=0.9)
  return program_of(FEDAVG, task, local, LOOP, lr=0.3, local_steps=2, evaluate_clients=3)[0]


def run(program, task, path=None, on_evaluation=None):
  folder = RunFolder.open(path, {}) if path else None
  variables = initial_variables(task, 0)
  try:
    return train(program, LOOP, task.data, variables, folder, on_evaluation=on_evaluation)
  finally:
    if folder:
      folder.close()


@pytest.fixture(scope="module")
def whole(program, task, tmp_path_factory):
  """(outcome, folder, global model after each round) of an uninterrupted run."""
  path, models = tmp_path_factory.mktemp("whole"), {}
  outcome = run(program, task, path, lambda round, row, model: models.update({round: model}))
  return outcome, path, models


def correct(task, variables, examples):
  images = task.eval_transform(jnp.asarray(examples.images))
  logits = np.asarray(task.model.apply(variables, images, Mode()))
  return logits.argmax(-1) == examples.labels


def test_the_columns_are_those_of_the_held_out_examples(task, whole):
  outcome, path, models = whole
  for row in outcome.rows:
    model = models[row["round"]]
    assert row["val_top1"] == pytest.approx(correct(task, model, task.validation).mean())
    hits, owners = correct(task, model, task.unseen), task.unseen.clients
    each = [hits[owners == k].mean() for k in (4, 5)]
    assert (row["unseen_top1"], row["unseen_top1_min"]) == pytest.approx((np.mean(each), min(each)))
  clients = json.loads((path / "evaluation.json").read_text())["clients"]
  assert [one["top1"] for one in clients if one["unseen"]] == pytest.approx(each)
  assert [(one["id"], one["examples"]) for one in clients if one["unseen"]] == [(4, 16), (5, 16)]
  assert {one["id"]: one["top1"] for one in clients[:3]} == outcome.client_accuracies
  assert outcome.details == json.loads((path / "evaluation.json").read_text())


def test_the_saved_best_model_is_that_of_the_best_round(whole):
  outcome, path, models = whole
  values = [row["val_top1"] for row in outcome.rows]
  best = 1 + values.index(max(values))
  assert best < 6  # the last model is another one
  saved = serialization.msgpack_restore((path / "model_best.msgpack").read_bytes())
  np.testing.assert_equal(saved, models[best])
  result = summary(outcome, average_last=2)
  assert result["best_round"] == best
  details = json.loads((path / "evaluation_best.json").read_text())
  assert details["round"] == best
  assert min(one["top1"] for one in details["clients"][:3]) == result["best_clients_top1_min"]
  diagonal, counts = np.trace(details["confusion"]), np.sum(details["confusion"])
  assert diagonal / counts == pytest.approx(result["best_top1"])
  for name in ("top1", "auroc", "clients_top1", "unseen_top1"):
    assert result[f"best_{name}"] == outcome.rows[best - 1][name]
    mean = (outcome.rows[-1][name] + outcome.rows[-2][name]) / 2
    assert result[f"mean_{name}"] == pytest.approx(mean)


@pytest.mark.parametrize("stop", [2, 4])
def test_a_resumed_run_ends_with_the_same_files(program, task, whole, tmp_path, stop):
  class Killed(Exception):
    pass

  def kill(round, row, model):
    if round == stop:
      raise Killed

  with pytest.raises(Killed):
    run(program, task, tmp_path, kill)
  outcome = run(program, task, tmp_path)
  for row, expected in zip(outcome.rows, whole[0].rows, strict=True):
    assert {**row, "seconds": 0} == {**expected, "seconds": 0}
  for name in ("model_best.msgpack", "evaluation.json", "evaluation_best.json"):
    assert (tmp_path / name).read_bytes() == (whole[1] / name).read_bytes()
  complete = run(program, task, tmp_path)  # nothing is trained
  assert complete.details == outcome.details


def test_the_tests_of_another_seed_are_not_compiled_again(
  program, task, make_source, tiny_net, caplog
):
  """The validation set of the other seed has another size and other examples."""
  source = make_source(num_train=80, num_test=20, seed=1)
  other = make(source, tiny_net, 1)._replace(eval_transform=task.eval_transform)
  assert len(other.validation.labels) != len(task.validation.labels)
  algorithm = program.phases["explore"].algorithm
  variables = initial_variables(task, 0)
  server = placer(program.mapping)(algorithm.init(variables))
  arguments = (algorithm, server, ClientStore((), 4), other.data, None)
  first = program.evaluate(*arguments)
  evaluate = program.evaluate.for_task(other)
  with jax.log_compiles():
    result = evaluate(*arguments)
  assert not caplog.records
  assert result.columns["top1"] == correct(task, variables, source.test).mean()
  assert result.columns["val_top1"] == correct(task, variables, other.validation).mean()
  assert result.columns["val_loss"] != first.columns["val_loss"]


def test_held_out_images_have_their_clients_feature_shift(make_source, tiny_net):
  """Brightness rises from -1 at the first of six clients to 1 at the last."""
  source = make_source(num_train=96)
  source.train.images[:] = 0.5
  task = make(source, tiny_net, 3, feature_shift="brightness")
  parts = (*[task.validation] * 4, *[task.unseen] * UNSEEN)
  shifts = [part.images[part.clients == k].mean() - 0.5 for k, part in enumerate(parts)]
  np.testing.assert_allclose(shifts[:4], task.data.strengths, rtol=1e-5)
  np.testing.assert_allclose(sorted(shifts), np.linspace(-1, 1, 6), rtol=1e-5)


def test_local_models_have_none_for_unseen_clients(make_source, tiny_net):
  task = make(make_source(num_train=96), tiny_net, 0, create("bn"))
  with pytest.raises(UserError, match="no model for a client that never trained"):
    program_of(FEDAVG, task, LOOP, fedbn=True)


@pytest.mark.parametrize(
  ("columns", "expected"),
  [
    ({"val_loss": [3, 2, 4], "val_top1": [0.1, 0.3, 0.3]}, 1),
    ({"val_loss": [3, 1, 1]}, 1),
    ({"val_loss": [3, 1, 1], "val_r2": [-9.0, -2.0, -1.0], "val_rmse": [1, 2, 3]}, 2),
    ({"val_mean_iou": [np.nan, 0.2, np.nan]}, 1),
    ({"val_mean_iou": [np.nan] * 3}, None),
    ({"loss": [3, 2, 1], "top1": [0.1, 0.2, 0.3]}, None),
  ],
)
def test_the_first_best_row_by_validation(columns, expected):
  rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
  assert best_index(rows) == expected


def test_a_summary_without_validation_has_no_best_round():
  costs = {"bytes_up": 1, "bytes_down": 1, "round_trips": 1, "seconds": 1.0}
  rows = [{"round": r, "loss": 1.0, "top1": r / 10, **costs} for r in (1, 2, 3)]
  result = summary(Outcome({}, ClientStore((), 1), rows, None, {}, [], {}), average_last=5)
  assert not any(name.startswith("best_") for name in result)
  assert result["mean_top1"] == pytest.approx(0.2)
  assert result["average_last"] == 3
