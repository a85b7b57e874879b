"""Errors of numbers against scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sklearn import metrics

from fedjax_norm import client_mapping
from fedjax_norm.data.examples import Examples
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation import classification, regression


class Table(nn.Module):
  """Outputs read off a table by the image's first pixel."""

  table: tuple

  def __call__(self, x, mode):
    del mode
    return jnp.asarray(self.table)[x[:, 0, 0, 0].astype(jnp.int32)]


@pytest.fixture(scope="module")
def case():
  """(the test examples, their units, the guesses of two models in the targets' own units)."""
  rng = np.random.default_rng(0)
  train, test = (rng.normal([5, -300], [2, 40], (n, 2)).astype(np.float32) for n in (31, 23))
  guesses = test + rng.normal(0, [1, 30], (2, 23, 2))
  images = np.zeros((23, 1, 1, 1), np.float32)
  images[:, 0, 0, 0] = np.arange(23)
  return (
    Examples(images, np.zeros(23, np.int32), targets=test),
    regression.target_scale(train, test),
    guesses,
  )


def errors_of(case, guesses, batch_size):
  test, units, _ = case
  model = Table(tuple(map(tuple, units.standard(guesses).tolist())))
  batch_test = classification.make_batch_test(
    model, lambda images, ids, strength: images, regression.errors_of
  )
  mapping = client_mapping.create("auto", num_clients=2)
  targets = units.standard(test.targets)
  batches = classification.stack_batches(test, batch_size, mapping.num_devices, targets)
  result = classification.make_evaluate(batch_test, mapping)({}, jax.tree.map(jnp.asarray, batches))
  return jax.tree.map(np.asarray, result)


@pytest.mark.parametrize("batch_size", [5, 23])
def test_equals_scikit_learn_in_the_targets_own_units(case, batch_size):
  test, units, (guesses, _) = case
  found = regression.summarize(errors_of(case, guesses, batch_size), units)
  mse = metrics.mean_squared_error(test.targets, guesses)
  expected = {
    "r2": metrics.r2_score(test.targets, guesses),
    "rmse": np.sqrt(mse),
    "mae": metrics.mean_absolute_error(test.targets, guesses),
    "mse": mse,
    "loss": np.square((guesses - test.targets) / units.std).sum(1).mean() / 2,
  }
  assert found == pytest.approx(expected, rel=1e-4)


def test_several_models_count_as_their_mean(case):
  each = [errors_of(case, guesses, 23) for guesses in case[2]]
  one, two = (regression.summarize(errors, case[1]) for errors in each)
  both = regression.summarize(jax.tree.map(lambda *a: np.stack(a), *each), case[1])
  for name in ("loss", "r2", "mae", "mse"):
    assert both[name] == pytest.approx((one[name] + two[name]) / 2)


def test_standard_units_are_of_the_training_targets():
  train = np.array([[1.0], [3.0]], np.float32)
  units = regression.target_scale(train, np.array([[0.0], [1.0]]))
  np.testing.assert_array_equal(units.standard(train), [[-1], [1]])
  assert units.standard(train).dtype == np.float32
  np.testing.assert_array_equal(units.spread, [0.5])


@pytest.mark.parametrize(
  ("train", "test", "name"), [((1, 1), (0, 1), "training"), ((0, 1), (2, 2), "test")]
)
def test_a_number_that_never_changes_is_refused(train, test, name):
  train, test = (np.array([[0, a], [1, b]], np.float32) for a, b in (train, test))
  with pytest.raises(
    UserError, match=f"number 1 of the targets is the same in all {name} examples"
  ):
    regression.target_scale(train, test)
