"""Evaluation on the test set: of the global model, and of every client's."""

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
  """Sums over the test set by class, so that adding merges them.

  Attributes:
    loss: [C] of the cross-entropies, or of the user's own loss.
    top1: [C] examples whose label is the first guess, or that the user's own objective calls right;
      None where it calls nothing right.
    top5: [C] examples whose label is among the first five (or all, of fewer classes); None under
      the user's own objective.
    examples: [C] how many.
  """

  loss: Array
  top1: Any
  top5: Any
  examples: Array


class HeldOut(NamedTuple):
  """Test examples as they are stored.

  Attributes:
    batch: raw images, labels (or other targets) and mask, [B, ...] (or [T, B, ...] when stacked).
    ids: [B] int32, the examples' ids.
  """

  batch: Batch
  ids: Array


def stack_batches(
  test: Examples, batch_size: int, multiple: int = 1, targets: np.ndarray | None = None
) -> HeldOut:
  """The test set as stacked batches [T, B, ...] of raw images, padded and masked.

  Args:
    test: the examples.
    batch_size: B at the most.
    multiple: T becomes a multiple of this (the number of devices).
    targets: [N, ...] that outputs are held against; None is the labels.
  """
  n = len(test.labels)
  count = -(-n // batch_size)
  count = -(-count // multiple) * multiple
  size = -(-n // count)
  ids = np.arange(count * size).reshape(count, size)
  mask = (ids < n).astype(np.float32)
  ids = np.minimum(ids, n - 1)
  ids = ids.astype(np.int32)
  known = test.labels.astype(np.int32) if targets is None else targets
  return HeldOut(Batch(test.images[ids], known[ids], mask), ids)


def of_batch(
  model: nn.Module, transform: EvalTransform, result_of: Callable[[Array, Batch], Any]
) -> Callable[..., Any]:
  """(variables, one test batch, a client's feature strength or None) -> a result.

  Args:
    model: the model, unbound to any axis.
    transform: of test images.
    result_of: (the model's outputs in float32, the batch) -> the result.
  """

  def test(variables: Variables, examples: HeldOut, strength: Array | None = None) -> Any:
    batch, ids = examples
    outputs: Array = model.apply(variables, transform(batch.images, ids, strength), Mode())
    return result_of(outputs.astype(jnp.float32), batch)

  return test


def make_scores(
  model: nn.Module, num_classes: int, transform: EvalTransform, own: Objective | None = None
) -> Callable[..., Scores]:
  """(variables, one test batch, a client's feature strength or None) -> its scores.

  ``own`` is the user's own objective, if there is one.
  """

  return of_batch(model, transform, functools.partial(scores_of, num_classes=num_classes, own=own))


def scores_of(
  logits: Array, batch: Batch, num_classes: int, own: Objective | None = None
) -> Scores:
  """The scores of a batch's logits [B, C], float32; a padded example counts nothing."""
  real = batch.mask > 0

  def by_class(values: Array) -> Array:
    kept = jnp.where(real, values, 0).astype(jnp.float32)
    return jnp.zeros(num_classes, jnp.float32).at[batch.labels].add(kept)

  if own:
    right = by_class(own.correct(logits, batch.labels)) if own.correct else None
    return Scores(by_class(own.loss(logits, batch.labels)), right, None, by_class(real))
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
  at_label = jnp.take_along_axis(logits, batch.labels[:, None], -1)
  # The rank counts a tie, and a logit that is not a number, against the model.
  rank = num_classes - 1 - (at_label > logits).sum(-1)
  return Scores(by_class(losses), by_class(rank < 1), by_class(rank < 5), by_class(real))


def make_evaluate(scores, mapping: ClientMapping) -> Callable[[Variables, HeldOut], Scores]:
  """(variables, stacked batches) -> scores of the whole set; batches are mapped as nodes are."""

  @jax.jit
  def evaluate(variables: Variables, batches: HeldOut) -> Scores:
    def node(variables, batch):
      return scores(variables, batch), ()

    return mapping.map_reduce(node, variables, batches)[0]

  return evaluate


def make_evaluate_clients(
  scores, mapping: ClientMapping, client_variables: Callable[[PyTree, PyTree], Variables]
) -> Callable[[PyTree, PyTree, Array, HeldOut], Scores]:
  """Each client's model on the test set as that client would see it.

  Returns:
    (server's state, clients' states [k, ...], their feature strengths [k], stacked batches) ->
    scores [k, C].
  """

  @functools.partial(jax.jit, out_shardings=mapping.sharding)
  def evaluate(server: PyTree, clients: PyTree, strengths: Array, batches: HeldOut) -> Scores:
    def node(shared, item):
      (server, batches), (client, strength) = shared, item
      variables = client_variables(server, client)

      def body(total, batch):
        return jax.tree.map(jnp.add, total, scores(variables, batch, strength)), None

      one = jax.eval_shape(
        lambda: scores(variables, jax.tree.map(lambda a: a[0], batches), strength)
      )
      zeros = jax.tree.map(jnp.zeros_like, one)
      return (), jax.lax.scan(body, zeros, batches)[0]

    return mapping.map_reduce(node, (server, batches), (clients, strengths))[1]

  return evaluate


def summarize(scores: Scores) -> dict[str, float]:
  """Loss, top-1 and top-5 as means over examples (and over models, for scores [k, C])."""
  total = np.asarray(scores.examples, np.float64).sum()
  return {
    name: float(np.asarray(getattr(scores, name), np.float64).sum() / total)
    for name in ("loss", "top1", "top5")
    if getattr(scores, name) is not None
  }


def label_weighted_accuracy(scores: Scores, counts: np.ndarray) -> np.ndarray:
  """Each client's expected accuracy on test examples with its own mix of labels.

  accuracy_k = sum_c p_k(c) accuracy(c), with p_k(c) the share of class c among the client's
  training examples; classes without a test example are left out.

  Args:
    scores: of the global model [C], or of each client's [K, C].
    counts: [K, C] training examples of each client and class.

  Returns:
    [K]; not a number for a client none of whose classes is tested.
  """
  top1, count = np.asarray(scores.top1, np.float64), np.asarray(scores.examples, np.float64)
  accuracy = np.divide(top1, count, out=np.zeros_like(top1), where=count > 0)
  share = counts * (count > 0)
  total = share.sum(-1)
  seen = np.where(total > 0, total, 1)
  return np.where(total > 0, (share * accuracy).sum(-1) / seen, np.nan)
