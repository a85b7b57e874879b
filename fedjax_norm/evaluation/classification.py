"""Tests of classifiers; for all kinds of tasks: test batches, and tests of server and clients."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.examples import Examples
from fedjax_norm.data.transforms.preprocess import EvalTransform
from fedjax_norm.norm import Mode
from fedjax_norm.objectives import Objective
from fedjax_norm.typing import Array, Batch, PyTree, Variables


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


class HeldOut(NamedTuple):
  """A batch of stored test examples.

  Attributes:
    batch: stored images, labels (or targets) and mask, [B, ...], or [T, B, ...] for T batches.
    ids: [B] int32 ids of the examples.
  """

  batch: Batch
  ids: Array


def stack_batches(
  test: Examples, batch_size: int, multiple: int = 1, targets: np.ndarray | None = None
) -> HeldOut:
  """Returns the test set as T stacked batches [T, B, ...] of stored images, padded and masked.

  B is at most ``batch_size``; T is divisible by ``multiple``, such as the number of devices.
  ``targets`` [N, ...] replace the labels unless they are None.
  """
  n = len(test.labels)
  count = -(-n // batch_size)
  count = -(-count // multiple) * multiple
  size = -(-n // count)
  ids = np.arange(count * size).reshape(count, size)
  mask = (ids < n).astype(np.float32)
  ids = np.minimum(ids, n - 1).astype(np.int32)
  targets = test.labels.astype(np.int32) if targets is None else targets
  return HeldOut(Batch(test.images[ids], targets[ids], mask), ids)


def make_batch_test(
  model: nn.Module, transform: EvalTransform, result_of: Callable[[Array, Batch], Any]
) -> Callable[..., Any]:
  """Returns the function that tests a model on one batch.

  Its arguments are variables, a ``HeldOut`` batch and the strength of a client's feature shift or
  None. Its result is ``result_of(model outputs in float32, batch)``.
  """

  def test(variables: Variables, examples: HeldOut, strength: Array | None = None) -> Any:
    batch, ids = examples
    outputs: Array = model.apply(variables, transform(batch.images, ids, strength), Mode())
    return result_of(outputs.astype(jnp.float32), batch)

  return test


def make_scores(
  model: nn.Module, num_classes: int, transform: EvalTransform, objective: Objective | None = None
) -> Callable[..., Scores]:
  """Returns the function of :func:`make_batch_test` that returns ``Scores``.

  ``objective`` is a user-defined objective; None means cross-entropy.
  """
  result_of = functools.partial(scores_of, num_classes=num_classes, objective=objective)
  return make_batch_test(model, transform, result_of)


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
  at_label = jnp.take_along_axis(logits, batch.labels[:, None], -1)
  # Ties and logits that are nan count as errors of the model.
  rank = num_classes - 1 - (at_label > logits).sum(-1)
  return Scores(by_class(losses), by_class(rank < 1), by_class(rank < 5), by_class(real))


def make_evaluate(
  test: Callable[..., Any], mapping: ClientMapping
) -> Callable[[Variables, HeldOut], Any]:
  """Returns the function (variables, stacked batches) -> sum of the test results of all batches.

  The devices divide the batches as they divide clients.
  """

  @jax.jit
  def evaluate(variables: Variables, batches: HeldOut) -> Any:
    def test_batch(variables: Variables, batch: HeldOut) -> tuple[Any, tuple]:
      return test(variables, batch), ()

    return mapping.map_reduce(test_batch, variables, batches)[0]

  return evaluate


def make_evaluate_clients(
  test: Callable[..., Any],
  mapping: ClientMapping,
  client_variables: Callable[[PyTree, PyTree], Variables],
) -> Callable[[PyTree, PyTree, Array, HeldOut], Any]:
  """Returns a function that tests each client's model on the whole test set.

  ``client_variables`` is (server state, client state) -> variables of the client's model.

  Returns:
    (server state, client states [k, ...], strengths of feature shifts of the test images [k],
    stacked batches) -> test results [k, ...], such as scores [k, C].
  """

  @functools.partial(jax.jit, out_shardings=mapping.sharding)
  def evaluate(server: PyTree, clients: PyTree, strengths: Array, batches: HeldOut) -> Any:
    def test_client(shared: tuple, item: tuple) -> tuple[tuple, Any]:
      (server, batches), (client_state, strength) = shared, item
      variables = client_variables(server, client_state)

      def add_batch(total: Any, batch: HeldOut) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, test(variables, batch, strength)), None

      first = jax.tree.map(lambda a: a[0], batches)
      shapes = jax.eval_shape(lambda: test(variables, first, strength))
      zeros = jax.tree.map(jnp.zeros_like, shapes)
      return (), jax.lax.scan(add_batch, zeros, batches)[0]

    return mapping.map_reduce(test_client, (server, batches), (clients, strengths))[1]

  return evaluate


def summarize(scores: Scores) -> dict[str, float]:
  """Returns mean loss, top-1 and top-5 over examples (and over k models, for scores [k, C])."""
  total = np.asarray(scores.examples, np.float64).sum()
  return {
    name: float(np.asarray(getattr(scores, name), np.float64).sum() / total)
    for name in ("loss", "top1", "top5")
    if getattr(scores, name) is not None
  }


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
