"""The gradient of one step of a client, for algorithms in which a round is one step."""

from collections.abc import Callable

import jax

from fedjax_norm.algorithms.contract import Setup
from fedjax_norm.algorithms.round_algorithm import RoundContext
from fedjax_norm.data.federated import draw
from fedjax_norm.local_training import LocalConfig, Metrics, make_gradient
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, PyTree, Variables


def make_step_gradient(
  config: LocalConfig, setup: Setup
) -> Callable[[RoundContext, Array, Variables], tuple[PyTree, PyTree, Metrics]]:
  """Makes ``step_gradient(context, row, variables) -> (gradient, batch_stats, metrics)``.

  ``row`` is the client's row in the context's data; padding (row -1) has an empty batch.
  """
  model = setup.bound_model
  gradient = make_gradient(model, config, model.norm.axis_names)

  def step_gradient(
    context: RoundContext, row: Array, variables: Variables
  ) -> tuple[PyTree, PyTree, Metrics]:
    batch = draw(context.data, row, context.round, config.batch_size, setup.transform, context.key)
    batch = batch._replace(mask=batch.mask * (row >= 0))
    key = jax.random.fold_in(stream(context.key, Stream.DROPOUT), context.round)
    key = jax.random.fold_in(key, context.data.clients[row])
    stats = variables.get("batch_stats", {})
    return gradient(variables["params"], stats, batch, context.round, key)

  return step_gradient
