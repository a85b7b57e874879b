"""Tests of classifiers: accuracy, and measures by class, which skewed labels call for."""

import base64
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from fedjax_norm.data.transforms.preprocess import EvalTransform
from fedjax_norm.evaluation import ranking
from fedjax_norm.evaluation.batches import BatchTest, make_batch_test
from fedjax_norm.evaluation.undefined import defined_mean, ratio
from fedjax_norm.objectives import Objective
from fedjax_norm.typing import Array, Batch

_MOST_CLASSES = 200
"""With more classes, the details of a test have no confusion matrix."""


class Scores(NamedTuple):
  """Sums over test examples by class; the ``Scores`` of several batches can be added.

  Attributes:
    loss: [C] sum of cross-entropies, or of a user-defined loss.
    top1: [C] number of examples with the correct class first, or that a user-defined objective
      counts as correct; None if the objective defines no correct outputs.
    top5: [C] number of examples with the correct class among the first five (or among all classes,
      if there are fewer than five); None with a user-defined objective.
    examples: [C] number of examples.
  """

  loss: Array
  top1: Any
  top5: Any
  examples: Array


class Result(NamedTuple):
  """The result of a test on N examples, including padding; [k, ...] for k models.

  Attributes:
    loss: as in :class:`Scores`, like ``top1``, ``top5`` and ``examples``.
    labels: [N] int32 classes; -1 for padding, which is at the end.
    correct: [N] whether (or, with a user-defined objective, to what share) an example is correct;
      None if the objective defines no correct outputs.
    predicted: [N] int32 predicted classes, equal to the label exactly if the correct class is
      first; None with a user-defined objective.
    outranked: [N] int32 comparisons for the AUROC (see ``ranking.outranked``); None with a
      user-defined objective.
  """

  loss: Array
  top1: Any
  top5: Any
  examples: Array
  labels: Array
  correct: Any
  predicted: Any
  outranked: Any


class ByClass(NamedTuple):
  """Measures of each class, pooled over the tested models; all [C] float64.

  Attributes:
    examples: number of test examples.
    recall: share of the class's examples that are predicted correctly; nan without examples.
    precision: share of the class's predictions that are correct; nan without predictions.
    f1: harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); nan without either.
    auroc: area under the ROC curve of this class against all others, as a mean over models; nan
      unless there are examples of both kinds.
  """

  examples: np.ndarray
  recall: np.ndarray
  precision: np.ndarray
  f1: np.ndarray
  auroc: np.ndarray


def make_scores(
  model: nn.Module,
  num_classes: int,
  transform: EvalTransform,
  objective: Objective | None = None,
  keep_outputs: bool = False,
) -> BatchTest:
  """Returns the function of ``batches.make_batch_test`` whose sums are ``Scores``.

  ``objective`` is a user-defined objective; None means cross-entropy.
  """
  sums_of = functools.partial(scores_of, num_classes=num_classes, objective=objective)
  return make_batch_test(model, transform, sums_of, keep_outputs)


def scores_of(
  logits: Array, batch: Batch, num_classes: int, objective: Objective | None = None
) -> Scores:
  """Returns the scores of float32 logits [B, C]; padded examples count 0."""
  real = batch.mask > 0

  def by_class(values: Array) -> Array:
    values = jnp.where(real, values, 0).astype(jnp.float32)
    return jnp.zeros(num_classes, jnp.float32).at[batch.labels].add(values)

  if objective:
    correct = by_class(objective.correct(logits, batch.labels)) if objective.correct else None
    return Scores(by_class(objective.loss(logits, batch.labels)), correct, None, by_class(real))
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
  rank = _rank(logits, batch.labels)
  return Scores(by_class(losses), by_class(rank < 1), by_class(rank < 5), by_class(real))


def _rank(logits: Array, labels: Array) -> Array:
  """Returns the number of classes before the correct one; ties and nan are errors of the model."""
  at_label = jnp.take_along_axis(logits, labels[:, None], -1)
  return logits.shape[-1] - 1 - (at_label > logits).sum(-1)


def finish(
  scores: Scores, logits: Array, batch: Batch, objective: Objective | None = None
) -> Result:
  """Returns the result for the logits [N, C] of all examples (see ``batches.Finish``)."""
  labels = jnp.where(batch.mask > 0, batch.labels, -1)
  if objective:
    correct = objective.correct(logits, batch.labels) if objective.correct else None
    return Result(*scores, labels, correct, None, None)
  correct = _rank(logits, batch.labels) < 1
  # Of a wrong example, the class before the correct one, also if both have the same logit.
  own = batch.labels[:, None] == jnp.arange(logits.shape[-1])
  rivals = jnp.where(own, -jnp.inf, jnp.maximum(logits, jnp.finfo(logits.dtype).min))
  predicted = jnp.where(correct, batch.labels, rivals.argmax(-1).astype(jnp.int32))
  log_probabilities = jax.nn.log_softmax(logits)
  return Result(*scores, labels, correct, predicted, ranking.outranked(log_probabilities, labels))


def means(scores: Scores | Result) -> dict[str, float]:
  """Returns mean loss, top-1 and top-5 over examples (and over k models, for scores [k, C])."""
  total = np.asarray(scores.examples, np.float64).sum()
  return {
    name: float(np.asarray(getattr(scores, name), np.float64).sum() / total)
    for name in ("loss", "top1", "top5")
    if getattr(scores, name) is not None
  }


def summarize(result: Result) -> dict[str, float]:
  """Returns the test columns: ``loss``, ``top1`` and ``top5``, and means over classes.

  The latter are ``balanced_accuracy``, the mean recall of the classes with test examples;
  ``macro_f1``, the mean F1 of the classes with test examples or predictions; and ``auroc``, the
  mean over the classes that have one. Predictions of k models are pooled.
  """
  columns = means(result)
  if result.top1 is None:
    return columns
  classes = by_class(result)
  columns["balanced_accuracy"] = defined_mean(classes.recall)
  if result.predicted is None:
    return columns
  return columns | {"macro_f1": defined_mean(classes.f1), "auroc": defined_mean(classes.auroc)}


def by_class(result: Result) -> ByClass:
  """Returns the measures of each class; all but the recall are nan with a user-defined objective.

  The objective must define which outputs are correct.
  """
  hits, examples = (
    np.asarray(leaf, np.float64).reshape(-1, np.shape(leaf)[-1])
    for leaf in (result.top1, result.examples)
  )
  models, classes = examples.shape
  missing = np.full(classes, np.nan)
  recall = ratio(hits.sum(0), examples.sum(0))
  if result.predicted is None:
    return ByClass(examples[0], recall, missing, missing, missing)
  labels, predicted, outranked = (
    np.asarray(leaf).reshape(models, -1)
    for leaf in (result.labels, result.predicted, result.outranked)
  )
  predictions = np.bincount(predicted[labels >= 0], minlength=classes)
  areas = [ranking.auroc(*pair, classes) for pair in zip(outranked, labels, strict=True)]
  return ByClass(
    examples[0],
    recall,
    ratio(hits.sum(0), predictions),
    ratio(2 * hits.sum(0), examples.sum(0) + predictions),
    np.mean(areas, 0),
  )


def details(result: Result, class_names: Sequence[str]) -> dict[str, Any]:
  """Returns the measures of each class and the confusion matrix, as in ``evaluation.json``.

  Returns:
    ``classes``: for each class its ``name``, number of test ``examples``, and ``recall``,
    ``precision``, ``f1`` and ``auroc`` (None for those of :class:`ByClass` that are nan);
    ``confusion``: number of predictions by true class (rows) and predicted class (columns), summed
    over k models, without which there are more than 200 classes or a user-defined objective;
    ``correct``: of one model, a bit for each test example (see :func:`unpacked`).
    Nothing at all if the objective defines no correct outputs.
  """
  if result.top1 is None:
    return {}
  values = by_class(result)
  classes = [
    {"name": str(name), "examples": int(values.examples[c])}
    | {n: _or_none(getattr(values, n)[c]) for n in ("recall", "precision", "f1", "auroc")}
    for c, name in enumerate(class_names)
  ]
  if result.predicted is None:
    return {"classes": classes}
  labels, predicted = np.ravel(result.labels), np.ravel(result.predicted)
  found: dict[str, Any] = {"classes": classes}
  if np.ndim(result.top1) == 1:
    bits = np.packbits((predicted == labels)[labels >= 0])
    found["correct"] = base64.b64encode(bits.tobytes()).decode()
  if len(classes) > _MOST_CLASSES:
    return found
  cells = (labels * len(classes) + predicted)[labels >= 0]
  confusion = np.bincount(cells, minlength=len(classes) ** 2).reshape(len(classes), -1)
  return {**found, "confusion": confusion.tolist()}


def unpacked(correct: str, examples: int) -> np.ndarray:
  """Returns whether the model was correct for each test example, [examples] bool.

  ``correct`` is that of ``evaluation.json``: the bits in base64, the first one the highest of the
  first byte.
  """
  bits = np.frombuffer(base64.b64decode(correct), np.uint8)
  return np.unpackbits(bits, count=examples).astype(bool)


def own_accuracy(result: Result, owners: np.ndarray, ids: np.ndarray) -> np.ndarray:
  """Returns the accuracy on each client's own test examples, [K] float64; nan without any.

  Args:
    result: of one model, or of each client's model, [K, ...].
    owners: [n] client of each test example; -1 if unknown.
    ids: [K] the clients.
  """
  correct = np.asarray(result.correct, np.float64)[..., : len(owners)]
  models = np.broadcast_to(correct, (len(ids), len(owners)))
  return np.array([defined_mean(row[owners == k]) for row, k in zip(models, ids, strict=True)])


def label_weighted_accuracy(scores: Scores, counts: np.ndarray) -> np.ndarray:
  """Returns each client's test accuracy, weighted by the label shares of its training examples.

  accuracy_k = sum_c p_k(c) accuracy(c), with p_k(c) the share of class c among the client's
  training examples ``counts`` [K, C]; classes without test examples are ignored. ``scores`` are
  the scores of the global model [C], or of each client's model [K, C].

  Returns:
    [K] accuracies; nan for a client without a tested class.
  """
  top1, count = np.asarray(scores.top1, np.float64), np.asarray(scores.examples, np.float64)
  accuracy = np.divide(top1, count, out=np.zeros_like(top1), where=count > 0)
  share = counts * (count > 0)
  total = share.sum(-1)
  return np.where(total > 0, (share * accuracy).sum(-1) / np.where(total > 0, total, 1), np.nan)


def _or_none(value: float) -> float | None:
  return None if np.isnan(value) else float(value)
