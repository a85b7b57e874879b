"""Scores of classifiers against counting by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedjax_norm import client_mapping
from fedjax_norm.data.examples import Examples
from fedjax_norm.evaluation import classification
from fedjax_norm.evaluation.batches import make_evaluate, make_evaluate_clients, stack_batches

CLASSES = 7


class Table(nn.Module):
  """Returns logits from a table; the first pixel of an image is the row number."""

  table: tuple

  def __call__(self, x, mode):
    del mode
    return jnp.asarray(self.table)[x[:, 0, 0, 0].astype(jnp.int32)]


@pytest.fixture(scope="module")
def case():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(23, CLASSES)).astype(np.float32)
  labels = rng.integers(0, CLASSES, 23).astype(np.int32)
  images = np.zeros((23, 2, 2, 1), np.float32)
  images[:, 0, 0, 0] = np.arange(23)
  return Table(tuple(map(tuple, logits.tolist()))), logits, Examples(images, labels)


def by_hand(logits, labels):
  """Returns loss, top-1 and top-5 as means over examples, in float64."""
  logits = logits.astype(np.float64)
  losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
  order = np.argsort(-logits, axis=1)
  top1 = (order[:, :1] == labels[:, None]).any(1)
  top5 = (order[:, :5] == labels[:, None]).any(1)
  return losses.mean(), top1.mean(), top5.mean()


@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_equals_counting_by_hand_for_all_batch_sizes(case, batch_size):
  model, logits, test = case
  scores = classification.make_scores(model, CLASSES, lambda images, ids, strength: images)
  mapping = client_mapping.create("auto", num_clients=2)
  batches = stack_batches(test, batch_size, mapping.num_devices)
  assert batches.batch.mask.sum() == 23
  result = make_evaluate(scores, mapping)({}, jax.tree.map(jnp.asarray, batches))
  summary = classification.means(result)
  loss, top1, top5 = by_hand(logits, test.labels)
  np.testing.assert_allclose(summary["loss"], loss, rtol=1e-5)
  assert (summary["top1"], summary["top5"]) == (top1, top5)
  np.testing.assert_array_equal(result.examples, np.bincount(test.labels, minlength=CLASSES))


def test_ties_and_nan_count_as_errors():
  """Equal logits and nan logits give an accuracy of 0."""
  for value in (0.0, float("nan")):
    model = Table(((value,) * CLASSES,))
    scores = classification.make_scores(model, CLASSES, lambda images, ids, strength: images)
    batch = stack_batches(
      Examples(np.zeros((4, 1, 1, 1), np.float32), np.arange(4, dtype=np.int32)), 4
    )
    result, _ = scores({}, jax.tree.map(lambda a: jnp.asarray(a[0]), batch))
    assert float(result.top1.sum()) == 0
    assert np.isnan(float(result.loss.sum())) == np.isnan(value)


def test_client_models(case):
  """Stacked client models have the scores of each model alone."""
  model, logits, test = case

  class Shifted(nn.Module):
    @nn.compact
    def __call__(self, x, mode):
      return model(x, mode) + self.param("shift", nn.initializers.zeros, (CLASSES,))

  shifts = np.random.default_rng(1).normal(size=(3, CLASSES)).astype(np.float32)
  scores = classification.make_scores(Shifted(), CLASSES, lambda images, ids, strength: images)
  evaluate = make_evaluate_clients(
    scores,
    client_mapping.create("auto", num_clients=3),
    lambda server, state: {"params": {"shift": state}},
  )
  batches = jax.tree.map(jnp.asarray, stack_batches(test, 5))
  result = evaluate((), jnp.asarray(shifts), np.zeros(3, np.float32), batches)
  for k in range(3):
    one = jax.tree.map(lambda a, k=k: a[k], result)
    expected = by_hand(logits + shifts[k], test.labels)
    np.testing.assert_allclose(list(classification.means(one).values()), expected, rtol=1e-5)


def test_label_weighted_accuracy_by_hand():
  top1, count = np.array([8.0, 1.0, 0.0]), np.array([10.0, 2.0, 0.0])
  scores = classification.Scores(count, top1, top1, count)
  counts = np.array([[4, 0, 0], [1, 3, 0], [2, 2, 6], [0, 0, 9]])
  np.testing.assert_allclose(
    classification.label_weighted_accuracy(scores, counts),
    [0.8, 0.25 * 0.8 + 0.75 * 0.5, 0.65, np.nan],
  )
