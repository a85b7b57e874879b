"""The gradient of one step of a worker: what SSGD and its communication-saving kin begin with."""

from collections.abc import Callable

import jax
from flax import linen as nn

from fedjax_norm.algorithms.base import Context
from fedjax_norm.algorithms.statistics import POLICIES
from fedjax_norm.data.federated import Transform, draw
from fedjax_norm.errors import UserError
from fedjax_norm.keys import Stream, stream
from fedjax_norm.local import LocalConfig, Metrics, make_gradient
from fedjax_norm.typing import Array, PyTree, Variables


def check_steps(local: LocalConfig, batch_stats: str) -> None:
  """Refuses what means nothing to an algorithm whose rounds are steps.

  Raises:
    UserError: an unknown policy, or FedProx's pull to where a round began.
  """
  if batch_stats not in POLICIES:
    raise UserError(f"unknown batch_stats {batch_stats!r}; choose one of {', '.join(POLICIES)}.")
  if local.prox:
    raise UserError(
      "prox pulls a client back to where its round began, which a single step never leaves; drop "
      "it."
    )


def make_step_gradient(
  model: nn.Module, local: LocalConfig, transform: Transform, largest: int | None = None
) -> Callable[..., tuple[PyTree, PyTree, Array, Metrics]]:
  """The gradient of a worker's next batch, in a round that is one step.

  Args:
    model: its norm bound to the axes over which workers are mapped.
    local: the worker's batch.
    transform: of its images.
    largest: the places of a batch; None is ``local.batch_size``.

  Returns:
    ``step_gradient(context, row, variables, take=None) -> (gradient, batch_stats, examples,
    metrics)``: of the worker in a row of the context's data (an empty batch for row -1), of whose
    batch ``take`` places are filled, all of them for None.
  """
  gradient = make_gradient(model, local, model.norm.axis_names)
  largest = largest or local.batch_size

  def step_gradient(context: Context, row: Array, variables: Variables, take: Array | None = None):
    batch = draw(context.data, row, context.round, largest, transform, context.key, take)
    # What fills up the devices is an empty batch.
    batch = batch._replace(mask=batch.mask * (row >= 0))
    key = jax.random.fold_in(stream(context.key, Stream.DROPOUT), context.round)
    key = jax.random.fold_in(key, context.data.clients[row])
    stats = variables.get("batch_stats", {})
    grads, stats, metrics = gradient(variables["params"], stats, batch, context.round, key)
    return grads, stats, batch.mask.sum(), metrics

  return step_gradient
