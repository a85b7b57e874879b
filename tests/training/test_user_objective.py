"""User-defined training objectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers.user_parts import CLIENTS, Plain, run

import fedjax_norm as fn
from fedjax_norm.training.run import initial_variables


def smooth(outputs, labels):
  """Cross-entropy with label smoothing: 0.9 for the label and 0.1 over all classes."""
  targets = 0.9 * jax.nn.one_hot(labels, outputs.shape[-1]) + 0.1 / outputs.shape[-1]
  return -(targets * jax.nn.log_softmax(outputs)).sum(-1)


def is_correct(outputs, labels):
  return outputs.argmax(-1) == labels


def by_hand(task, variables):
  """Returns the smoothed loss and the accuracy of the test set, in NumPy."""
  logits = np.asarray(
    Plain().apply(variables, task.eval_transform(task.source.test.images)), np.float64
  )
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  labels = task.source.test.labels
  loss = -0.9 * log_p[np.arange(len(labels)), labels] - 0.1 * log_p.mean(-1)
  return loss.mean(), np.mean(logits.argmax(-1) == labels)


@pytest.mark.parametrize("correct", [is_correct, None], ids=["correct", "loss alone"])
def test_a_user_objective_is_trained_and_tested(tiny_source, tmp_path, correct):
  objective = fn.Objective(smooth, correct, "train_right" if correct else None)
  task = fn.make_task(tiny_source, CLIENTS, model=Plain(), objective=objective)
  with fn.RunFolder.open(tmp_path / "run", {}) as folder:
    outcome = run(task, folder=folder)
  row, (loss, accuracy) = outcome.rows[-1], by_hand(task, outcome.variables)
  assert row["loss"] == pytest.approx(loss, rel=1e-5)
  assert ("top1" in row, "train_right" in row) == (bool(correct),) * 2
  assert "top5" not in row
  if correct:
    assert row["top1"] == pytest.approx(accuracy)
  with fn.RunFolder.open(tmp_path / "run", {}) as folder:
    assert len(run(task, fn.LoopConfig(6, 2), folder=folder).rows) == 3
  if not correct:
    with pytest.raises(fn.UserError, match="without correct has no label shares"):
      run(task, evaluate_clients=2)


def test_a_user_objective_determines_the_gradient(tiny_source):
  """One step on all data as one batch, without momentum, is gradient descent."""
  objective = fn.Objective(smooth)
  task = fn.make_task(
    tiny_source, np.zeros(60, int), model=nn.Sequential([_flat, nn.Dense(4)]), objective=objective
  )
  config = fn.LocalConfig(batch_size=60, momentum=0.0, weight_decay=0.0)
  before = initial_variables(task, 0)["params"]["layers_1"]
  after = run(task, config, fn.LoopConfig(1, 1)).variables["params"]["layers_1"]
  x = np.asarray(task.eval_transform(task.source.train.images)).reshape(60, -1)
  logits = x @ before["kernel"] + before["bias"]
  target = 0.9 * np.eye(4)[task.source.train.labels] + 0.1 / 4
  step = x.T @ (np.asarray(jax.nn.softmax(logits)) - target) / 60
  np.testing.assert_allclose(after["kernel"], before["kernel"] - 0.05 * step, rtol=1e-4, atol=1e-6)


def _flat(x):
  return x.reshape(len(x), -1)


def test_a_user_objective_for_regression_has_its_measures(make_source):
  """The test loss is the user-defined loss, in standard units; R² and the others stay."""
  source = make_source()
  train, test = (
    part._replace(targets=part.labels[:, None].astype(np.float32)) for part in source[1:3]
  )
  source = source._replace(train=train, test=test, target_names=("label",))

  def absolute(outputs, targets):
    return jnp.abs(outputs - targets).sum(-1)

  objective = fn.Objective(absolute)
  task = fn.make_task(source, CLIENTS, model=Plain(1), objective=objective)
  assert task.kind == "regression"
  outcome = run(task, fn.LoopConfig(1, 1))
  row = outcome.rows[-1]
  assert row["loss"] == pytest.approx(row["mae"] / task.units.std[0], rel=1e-5)
  assert "r2" in row


def test_a_loss_that_is_a_mean_is_refused(tiny_source):
  objective = fn.Objective(lambda o, t: smooth(o, t).mean())
  with pytest.raises(fn.UserError, match=r"loss of the objective returns the shape \(\)"):
    fn.make_task(tiny_source, CLIENTS, fn.make_norm("bn"), objective=objective)
