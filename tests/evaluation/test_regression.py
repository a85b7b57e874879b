"""Regression measures against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sklearn import metrics

from fedjax_norm import client_mapping
from fedjax_norm.data.examples import Examples
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation import regression
from fedjax_norm.evaluation.batches import make_batch_test, make_evaluate, stack_batches


class Table(nn.Module):
  """Returns outputs from a table; the first pixel of an image is the row number."""

  table: tuple

  def __call__(self, x, mode):
    del mode
    return jnp.asarray(self.table)[x[:, 0, 0, 0].astype(jnp.int32)]


@pytest.fixture(scope="module")
def case():
  """(test examples, target scale, predictions of two models in the original units)."""
  rng = np.random.default_rng(0)
  train, test = (rng.normal([5, -300], [2, 40], (n, 2)).astype(np.float32) for n in (31, 23))
  predictions = test + rng.normal(0, [1, 30], (2, 23, 2))
  images = np.zeros((23, 1, 1, 1), np.float32)
  images[:, 0, 0, 0] = np.arange(23)
  return (
    Examples(images, np.zeros(23, np.int32), targets=test),
    regression.target_scale(train, test),
    predictions,
  )


def errors_of(case, predictions, batch_size):
  test, scale, _ = case
  model = Table(tuple(map(tuple, scale.standard(predictions).tolist())))
  batch_test = make_batch_test(model, lambda images, ids, strength: images, regression.errors_of)
  mapping = client_mapping.create("auto", num_clients=2)
  targets = scale.standard(test.targets)
  batches = stack_batches(test, batch_size, mapping.num_devices, targets)
  result = make_evaluate(batch_test, mapping)({}, jax.tree.map(jnp.asarray, batches))
  return jax.tree.map(np.asarray, result)


@pytest.mark.parametrize("batch_size", [5, 23])
def test_equals_scikit_learn_in_the_original_units(case, batch_size):
  test, scale, (predictions, _) = case
  columns = regression.summarize(errors_of(case, predictions, batch_size), scale)
  mse = metrics.mean_squared_error(test.targets, predictions)
  expected = {
    "r2": metrics.r2_score(test.targets, predictions),
    "rmse": np.sqrt(mse),
    "mae": metrics.mean_absolute_error(test.targets, predictions),
    "mse": mse,
    "loss": np.square((predictions - test.targets) / scale.std).sum(1).mean() / 2,
  }
  assert columns == pytest.approx(expected, rel=1e-4)


def test_columns_of_several_models_are_means(case):
  each = [errors_of(case, predictions, 23) for predictions in case[2]]
  one, two = (regression.summarize(errors, case[1]) for errors in each)
  both = regression.summarize(jax.tree.map(lambda *a: np.stack(a), *each), case[1])
  for name in ("loss", "r2", "mae", "mse"):
    assert both[name] == pytest.approx((one[name] + two[name]) / 2)


def test_targets_are_standardized_by_the_training_set():
  train = np.array([[1.0], [3.0]], np.float32)
  scale = regression.target_scale(train, np.array([[0.0], [1.0]]))
  np.testing.assert_array_equal(scale.standard(train), [[-1], [1]])
  assert scale.standard(train).dtype == np.float32
  np.testing.assert_array_equal(scale.spread, [0.5])


@pytest.mark.parametrize(
  ("train", "test", "name"), [((1, 1), (0, 1), "training"), ((0, 1), (2, 2), "test")]
)
def test_a_constant_target_is_refused(train, test, name):
  train, test = (np.array([[0, a], [1, b]], np.float32) for a, b in (train, test))
  with pytest.raises(
    UserError, match=f"number 1 of the targets is the same in all {name} examples"
  ):
    regression.target_scale(train, test)


def test_a_constant_target_of_the_validation_examples_is_refused():
  scale = regression.target_scale(*np.array([[[0, 1], [1, 3]], [[0, 1], [1, 2]]], np.float32))
  np.testing.assert_array_equal(scale.of(np.array([[0, 2], [4, 3]])).spread, [8, 0.5])
  with pytest.raises(UserError, match=r"number 0 .* in all validation .* raise --validation_share"):
    scale.of(np.array([[4, 2], [4, 3]]))
