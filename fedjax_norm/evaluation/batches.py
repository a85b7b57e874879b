"""Tests of models on stacked batches of examples, for all kinds of tasks."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.examples import Examples
from fedjax_norm.data.transforms.preprocess import EvalTransform
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array, Batch, PyTree, Variables


class HeldOut(NamedTuple):
  """A batch of stored test examples.

  Attributes:
    batch: stored images, labels (or targets) and mask, [B, ...], or [T, B, ...] for T batches.
    ids: [B] int32 ids of the examples.
  """

  batch: Batch
  ids: Array


BatchTest = Callable[..., tuple[Any, Any]]
"""(variables, ``HeldOut`` batch, strength of a client's feature shift or None) -> (sums over the
batch, which are added over batches; values of each example [B, ...], which are stacked)."""

Finish = Callable[[Any, Any, Batch], Any]
"""(sums over all batches, values of each example [T * B, ...], all labels and masks [T * B]) -> the
result of the test. The last examples are padding."""


def stack_batches(
  test: Examples,
  batch_size: int,
  multiple: int = 1,
  targets: np.ndarray | None = None,
  even: bool = True,
) -> HeldOut:
  """Returns the test set as T stacked batches [T, B, ...] of stored images, padded and masked.

  T is divisible by ``multiple``, such as the number of devices. B is ``batch_size`` or, if ``even``
  is True, the smallest number for which T batches are enough. ``targets`` [N, ...] replace the
  labels unless they are None.
  """
  n = len(test.labels)
  count = -(-n // batch_size)
  count = -(-count // multiple) * multiple
  size = -(-n // count) if even else batch_size
  ids = np.arange(count * size).reshape(count, size)
  mask = (ids < n).astype(np.float32)
  ids = np.minimum(ids, n - 1).astype(np.int32)
  targets = test.labels.astype(np.int32) if targets is None else targets
  return HeldOut(Batch(test.images[ids], targets[ids], mask), ids)


def make_batch_test(
  model: nn.Module,
  transform: EvalTransform,
  sums_of: Callable[[Array, Batch], Any],
  keep_outputs: bool = False,
) -> BatchTest:
  """Returns the function that tests a model on one batch.

  Its result is (``sums_of(model outputs in float32, batch)``, the outputs or, by default, nothing).
  """

  def test(
    variables: Variables, examples: HeldOut, strength: Array | None = None
  ) -> tuple[Any, Any]:
    batch, ids = examples
    outputs: Array = model.apply(variables, transform(batch.images, ids, strength), Mode())
    outputs = outputs.astype(jnp.float32)
    return sums_of(outputs, batch), outputs if keep_outputs else ()

  return test


def only_sums(sums: Any, rows: Any, batch: Batch) -> Any:
  """Returns the sums; the ``Finish`` of tests whose result is a sum over examples."""
  del rows, batch
  return sums


def make_evaluate(
  test: BatchTest, mapping: ClientMapping, finish: Finish = only_sums
) -> Callable[[Variables, HeldOut], Any]:
  """Returns the function (variables, stacked batches) -> test result of one model.

  The devices divide the batches as they divide clients.
  """

  @functools.partial(jax.jit, out_shardings=mapping.sharding)
  def test_batches(variables: Variables, batches: HeldOut) -> tuple[Any, Any]:
    sums, rows = mapping.map_reduce(test, variables, batches)
    return sums, _replicated(rows, mapping)

  def evaluate(variables: Variables, batches: HeldOut) -> Any:
    # A program of its own, so that models with equal outputs share it.
    return _finish(finish, *test_batches(variables, batches), batches.batch._replace(images=()))

  return evaluate


def make_evaluate_clients(
  test: BatchTest,
  mapping: ClientMapping,
  client_variables: Callable[[PyTree, PyTree], Variables],
  finish: Finish = only_sums,
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

      def add_batch(total: Any, batch: HeldOut) -> tuple[Any, Any]:
        sums, rows = test(variables, batch, strength)
        return jax.tree.map(jnp.add, total, sums), rows

      first = jax.tree.map(lambda a: a[0], batches)
      shapes = jax.eval_shape(lambda: test(variables, first, strength)[0])
      zeros = jax.tree.map(jnp.zeros_like, shapes)
      rest = batches.batch._replace(images=())
      return (), _finished(finish, *jax.lax.scan(add_batch, zeros, batches), rest)

    return mapping.map_reduce(test_client, (server, batches), (clients, strengths))[1]

  return evaluate


def _finished(finish: Finish, sums: Any, rows: Any, batch: Batch) -> Any:
  """Returns the result for values [T, B, ...] of each example, in the order of the examples."""
  rows, batch = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), (rows, batch))
  return finish(sums, rows, batch)


_finish = jax.jit(_finished, static_argnums=0)


def _replicated(rows: Any, mapping: ClientMapping) -> Any:
  """Returns the rows on every device, which a result over all examples needs."""
  return jax.lax.with_sharding_constraint(rows, mapping.sharding) if mapping.mesh else rows
