"""Tests of classifiers against counting by hand and against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sklearn import metrics

from fedjax_norm import client_mapping
from fedjax_norm.data.examples import Examples
from fedjax_norm.evaluation import classification
from fedjax_norm.evaluation.batches import make_evaluate, make_evaluate_clients, stack_batches
from fedjax_norm.typing import Batch

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


def make_scores(model):
  return classification.make_scores(
    model, CLASSES, lambda images, ids, strength: images, keep_outputs=True
  )


def check_by_class(result, logits, labels):
  """Compares predictions, measures of classes and their means with scikit-learn's."""
  predicted = np.asarray(result.predicted)[: len(labels)]
  own = labels[:, None] == np.arange(CLASSES)
  rivals = np.where(own, -np.inf, np.where(np.isnan(logits), np.inf, logits))
  wrong = ~(logits[own] > rivals.max(1))
  np.testing.assert_array_equal(predicted != labels, wrong)
  assert (rivals.max(1) == rivals[np.arange(len(labels)), predicted])[wrong].all()
  np.testing.assert_array_equal(result.top1, np.bincount(labels[~wrong], minlength=CLASSES))

  details = classification.details(result, "abcdefg")
  confusion = metrics.confusion_matrix(labels, predicted, labels=range(CLASSES))
  np.testing.assert_array_equal(details["confusion"], confusion)
  correct = classification.unpacked(details["correct"], len(labels))
  np.testing.assert_array_equal(correct, labels == predicted)
  columns = {n: [c[n] for c in details["classes"]] for n in details["classes"][0]}
  assert columns.pop("name") == list("abcdefg")
  expected = metrics.precision_recall_fscore_support(
    labels, predicted, labels=range(CLASSES), zero_division=np.nan
  )
  for name, values in zip(("precision", "recall", "f1", "examples"), expected, strict=True):
    np.testing.assert_allclose(np.array(columns[name], float), values, err_msg=name)
  scores = np.array(jax.nn.log_softmax(logits))
  scores = np.where(np.isnan(scores), np.where(own, -1e9, 1e9), scores)
  areas = [
    metrics.roc_auc_score(labels == c, scores[:, c]) if 0 < (labels == c).mean() < 1 else np.nan
    for c in range(CLASSES)
  ]
  np.testing.assert_allclose(np.array(columns["auroc"], float), areas)

  summary = classification.summarize(result)
  macro_f1 = metrics.f1_score(labels, predicted, average="macro")
  np.testing.assert_allclose(summary["balanced_accuracy"], np.nanmean(expected[1]))
  np.testing.assert_allclose(summary["macro_f1"], macro_f1)
  np.testing.assert_allclose(summary["auroc"], np.nanmean(areas))


def finished(logits, labels, padding=0):
  """Returns the result for logits [N, C], the last ``padding`` of which count nothing."""
  mask = jnp.arange(len(labels)) < len(labels) - padding
  batch = Batch((), jnp.asarray(labels), mask.astype(jnp.float32))
  scores = classification.scores_of(jnp.asarray(logits), batch, CLASSES)
  return classification.finish(scores, jnp.asarray(logits), batch)


@pytest.mark.parametrize("seed", range(4))
def test_ties_nan_padding_and_missing_classes_by_scikit_learn(seed):
  """Classes are missing among the labels, among the predictions and among both."""
  rng = np.random.default_rng(seed)
  labels = rng.choice([0, 1, 2, 4], 40).astype(np.int32)
  logits = rng.integers(0, 3, (40, CLASSES)).astype(np.float32)
  logits[:, [4, 5]] -= 9
  logits[rng.integers(0, 30, seed)] = np.nan
  check_by_class(finished(logits, labels, padding=10), logits[:30], labels[:30])


def test_two_models_are_pooled():
  """Predictions count together, and AUROCs are averaged."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, CLASSES, 30).astype(np.int32)
  one, two = (finished(rng.normal(size=(30, CLASSES)).astype(np.float32), labels) for _ in "12")
  both = jax.tree.map(lambda *leaves: np.stack(leaves), one, two)
  predicted = np.ravel(both.predicted)
  labels = np.tile(labels, 2)
  summary = classification.summarize(both)
  np.testing.assert_allclose(
    (summary["top1"], summary["balanced_accuracy"], summary["macro_f1"]),
    (
      metrics.accuracy_score(labels, predicted),
      metrics.balanced_accuracy_score(labels, predicted),
      metrics.f1_score(labels, predicted, average="macro"),
    ),
  )
  details, *each = (classification.details(result, "abcdefg") for result in (both, one, two))
  np.testing.assert_array_equal(
    details["confusion"], np.sum([single["confusion"] for single in each], 0)
  )
  for pooled, *parts in zip(details["classes"], *(d["classes"] for d in each), strict=True):
    assert pooled["auroc"] == pytest.approx(np.mean([part["auroc"] for part in parts]))
    assert pooled["examples"] == parts[0]["examples"]


def test_accuracy_on_own_examples():
  """Of one model for all clients, or of each client's model; client 2 has no test example."""
  owners = np.array([0, 1, 1, -1, 0, 1])
  correct = np.array([[1, 1, 0, 1, 0, 0, 1, 1], [0, 0, 1, 0, 1, 1, 1, 1], [1] * 8])  # 2 padded
  result = classification.Result(*[None] * 5, correct, None, None)
  ids = np.array([0, 1, 2])
  np.testing.assert_allclose(
    classification.own_accuracy(result._replace(correct=correct[0]), owners, ids),
    [1 / 2, 1 / 3, np.nan],
  )
  np.testing.assert_allclose(
    classification.own_accuracy(result, owners, ids), [1 / 2, 2 / 3, np.nan]
  )


@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_equals_counting_by_hand_for_all_batch_sizes(case, batch_size):
  model, logits, test = case
  scores = make_scores(model)
  mapping = client_mapping.create("auto", num_clients=2)
  batches = stack_batches(test, batch_size, mapping.num_devices)
  assert batches.batch.mask.sum() == 23
  evaluate = make_evaluate(scores, mapping, classification.finish)
  result = evaluate({}, jax.tree.map(jnp.asarray, batches))
  check_by_class(result, logits, test.labels)
  summary = classification.summarize(result)
  loss, top1, top5 = by_hand(logits, test.labels)
  np.testing.assert_allclose(summary["loss"], loss, rtol=1e-5)
  assert (summary["top1"], summary["top5"]) == (top1, top5)
  np.testing.assert_array_equal(result.examples, np.bincount(test.labels, minlength=CLASSES))


def test_ties_and_nan_count_as_errors():
  """Equal logits and nan logits give an accuracy of 0."""
  for value in (0.0, float("nan")):
    model = Table(((value,) * CLASSES,))
    scores = make_scores(model)
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
  evaluate = make_evaluate_clients(
    make_scores(Shifted()),
    client_mapping.create("auto", num_clients=3),
    lambda server, state: {"params": {"shift": state}},
    classification.finish,
  )
  batches = jax.tree.map(jnp.asarray, stack_batches(test, 5))
  result = evaluate((), jnp.asarray(shifts), np.zeros(3, np.float32), batches)
  for k in range(3):
    one = jax.tree.map(lambda a, k=k: a[k], result)
    expected = by_hand(logits + shifts[k], test.labels)
    np.testing.assert_allclose(list(classification.means(one).values()), expected, rtol=1e-5)
    check_by_class(one, logits + shifts[k], test.labels)


def test_label_weighted_accuracy_by_hand():
  top1, count = np.array([8.0, 1.0, 0.0]), np.array([10.0, 2.0, 0.0])
  scores = classification.Scores(count, top1, top1, count)
  counts = np.array([[4, 0, 0], [1, 3, 0], [2, 2, 6], [0, 0, 9]])
  np.testing.assert_allclose(
    classification.label_weighted_accuracy(scores, counts),
    [0.8, 0.25 * 0.8 + 0.75 * 0.5, 0.65, np.nan],
  )
