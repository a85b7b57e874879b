"""The gradient of a batch's mean loss, and the training metrics."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from fedjax_norm.errors import UserError
from fedjax_norm.local_training.config import LocalConfig
from fedjax_norm.norm import Mode
from fedjax_norm.objectives import Objective, find
from fedjax_norm.typing import Array, Batch, Key, PyTree


class Metrics(NamedTuple):
  """Sums over training examples, so that metrics are merged by addition.

  Attributes:
    loss: sum of the examples' losses, float32.
    correct: sum of the share of each example that is predicted correctly, float32; 0 for objectives
      without accuracy.
    examples: number of examples, int32.
  """

  loss: Array
  correct: Array
  examples: Array

  @classmethod
  def zeros(cls) -> "Metrics":
    """Returns the metrics of zero examples, to start a sum with."""
    return cls(jnp.float32(0), jnp.float32(0), jnp.int32(0))


def measure(objective: str | Objective, outputs: Array, batch: Batch) -> Metrics:
  """Returns the sums of losses and correct shares over a batch's examples that are not padding.

  Args:
    objective: a name in ``objectives.OBJECTIVES``, or a user-defined objective.
    outputs: outputs of the model for the batch, any float dtype.
    batch: the batch, with the objective's targets as its ``labels``.
  """
  chosen, outputs = find(objective), outputs.astype(jnp.float32)
  real = batch.mask > 0

  def total(values: Array) -> Array:
    return jnp.where(real, values, 0).sum(dtype=jnp.float32)

  correct = total(chosen.correct(outputs, batch.labels)) if chosen.correct else jnp.float32(0)
  return Metrics(total(chosen.loss(outputs, batch.labels)), correct, real.sum(dtype=jnp.int32))


def make_loss(
  model: nn.Module, config: LocalConfig, shared_kernels: bool = False, dropout: bool = True
) -> Callable[..., tuple[Array, tuple[PyTree, Metrics]]]:
  """Returns a function that computes a batch's loss.

  The loss is the objective's, plus auxiliary losses of the model (auxiliary classifiers, centre
  loss). In training, the model sows each auxiliary loss, summed over the batch's examples that are
  not padding, into the flax collection ``losses``.

  Args:
    model: the model, with its norm bound to the mapped axes of clients if it merges statistics.
    config: options of the client's steps.
    shared_kernels, dropout: see ``norm.Mode``.

  Returns:
    ``loss(params, batch_stats, batch, time, key, count) -> (sum of the examples' losses / count,
    (batch_stats, metrics))``, with ``time`` and ``key`` as in :func:`make_gradient`.
  """

  def loss(
    params: PyTree, batch_stats: PyTree, batch: Batch, time: Array, key: Key, count: Array
  ) -> tuple[Array, tuple[PyTree, Metrics]]:
    variables = {"params": params, **({"batch_stats": batch_stats} if batch_stats else {})}
    mode = Mode(
      train=True,
      dropout=dropout,
      mask=batch.mask,
      step=time,
      labels=batch.labels,
      objective=config.objective,
      shared_kernels=shared_kernels,
    )
    mutable, rngs = ["batch_stats", "losses"], {"dropout": key}
    outputs, changed = model.apply(variables, batch.images, mode, mutable=mutable, rngs=rngs)
    metrics = measure(config.objective, outputs, batch)
    total = sum(jax.tree.leaves(changed.get("losses", {})), metrics.loss)
    return total / jnp.maximum(count, 1), (changed.get("batch_stats", {}), metrics)

  return loss


def make_gradient(
  model: nn.Module, config: LocalConfig, axis_names: tuple[str, ...] = ()
) -> Callable[..., tuple[PyTree, PyTree, Metrics]]:
  """Returns a function that computes the gradient of a batch's mean loss (see :func:`make_loss`).

  A batch is processed in ``config.accumulate`` parts, sequentially, so that it needs the memory of
  one part; the gradients of the parts add up to that of the batch. Norms that reduce the batch
  normalize each part separately, and running statistics are updated once per part.

  Args:
    model: the model, with its norm bound to ``axis_names``.
    config: options of the client's steps.
    axis_names: names of the mapped axes of clients if the model's norms merge statistics over all
      clients; otherwise empty.

  Returns:
    ``gradient(params, batch_stats, batch, time, key) -> (gradient, batch_stats, metrics)``: the
    gradient of the mean over this client's examples (0 if there are none). ``time`` is passed to
    the norms as ``Mode.step``, and dropout derives its random numbers from ``key``.

  Raises:
    UserError: ``config.accumulate`` is above 1, but the norm needs the joint batch of all clients.
  """
  parts = config.accumulate
  if parts > 1 and model.norm.across_clients:
    raise UserError(
      f"norm {model.norm.name!r} needs the joint batch of all clients, but accumulate={parts} "
      "processes it in parts; drop --accumulate or use a norm within clients, such as bn or gn."
    )

  grad_fn = jax.grad(make_loss(model, config), has_aux=True)

  def gradient(
    params: PyTree, batch_stats: PyTree, batch: Batch, time: Array, key: Key
  ) -> tuple[PyTree, PyTree, Metrics]:
    client_count = count = batch.mask.sum()
    if axis_names:
      # The backward pass through merged statistics adds the other clients' losses to this client's
      # gradient, so each loss must be weighted by its share of the joint batch.
      count = lax.psum(count, axis_names)
    if parts == 1:
      grads, (batch_stats, metrics) = grad_fn(params, batch_stats, batch, time, key, count)
    else:

      def body(
        carry: tuple[PyTree, PyTree, Metrics], item: tuple[Array, Batch]
      ) -> tuple[tuple[PyTree, PyTree, Metrics], None]:
        total, batch_stats, metrics = carry
        index, part = item
        part_key = jax.random.fold_in(key, index)
        grads, (batch_stats, more) = grad_fn(params, batch_stats, part, time, part_key, count)
        return (optax.tree.add(total, grads), batch_stats, optax.tree.add(metrics, more)), None

      divided = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)
      start = (jax.tree.map(jnp.zeros_like, params), batch_stats, Metrics.zeros())
      (grads, batch_stats, metrics), _ = lax.scan(body, start, (jnp.arange(parts), divided))
    if axis_names:
      grads = optax.tree.scale(count / jnp.maximum(client_count, 1.0), grads)
    return grads, batch_stats, metrics

  return gradient
