"""Synchronous SGD (paper 000, Alg. 1; BSP of paper 004): workers send gradients, a master steps."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from fedjax_norm import trees
from fedjax_norm.algorithms.base import HELD, Algorithm, Context, round_cost
from fedjax_norm.algorithms.options import check_choices
from fedjax_norm.algorithms.statistics import check_policy, combiner
from fedjax_norm.algorithms.worker import check_steps, make_step_gradient
from fedjax_norm.data.federated import Transform
from fedjax_norm.errors import UserError
from fedjax_norm.local import LocalConfig, optimizer
from fedjax_norm.nodes import Nodes
from fedjax_norm.typing import Array, PyTree, Variables

WEIGHTINGS = ("examples", "uniform")
REDUCTIONS = ("mean", "sum")
BATCH_SPLITS = ("equal", "proportional")


@dataclasses.dataclass(frozen=True)
class SsgdConfig:
  """What SSGD does; everything here is compiled in.

  Attributes:
    local: a worker's batch, and the master's SGD: clipping, weight decay and momentum act on the
      averaged gradient.
    weighting: of a worker's gradient in the average: by the ``examples`` of its batch, which makes
      it the gradient of the joint batch (eq. 8), or ``uniform`` (eq. 5 as it stands).
    batch_split: how the joint batch is divided: every worker has ``local.batch_size`` examples
      (``equal``), or ``proportional`` to its data, so that all go through theirs in the same time.
    batch_stats: how running statistics are combined: ``mean``, ``moments``, ``local`` or
      ``recalibrate``.
    reduction: whether the master steps with the ``mean`` of the workers' gradients, or with their
      ``sum`` as paper 004 adds up its partitions' updates: n times the mean, each with its own
      weight decay, so that the rate counts n times.
  """

  local: LocalConfig = dataclasses.field(default_factory=LocalConfig)
  weighting: str = "examples"
  batch_split: str = "equal"
  batch_stats: str = "mean"
  reduction: str = "mean"

  def __post_init__(self):
    check_choices(self, weighting=WEIGHTINGS, reduction=REDUCTIONS, batch_split=BATCH_SPLITS)
    check_steps(self.local, self.batch_stats)

  def batches(self, sizes: np.ndarray) -> np.ndarray:
    """The examples of every worker's batch: [n] int32.

    Args:
      sizes: [n] the workers' examples.
    """
    if self.batch_split == "equal":
      return np.full(len(sizes), self.local.batch_size, np.int32)
    share = np.rint(len(sizes) * self.local.batch_size * (sizes / sizes.sum()))
    return np.maximum(share, 1).astype(np.int32)


class Master(NamedTuple):
  """What the master holds.

  Attributes:
    variables: the weights W_t, and the running statistics.
    opt_state: of its SGD.
  """

  variables: Variables
  opt_state: PyTree


def ssgd(
  model: nn.Module,
  config: SsgdConfig,
  nodes: Nodes,
  transform: Transform,
  image_shape: tuple[int, int, int],
  sizes: np.ndarray,
) -> Algorithm:
  """SSGD; a round is one step of all workers.

  Args:
    model: the model, unbound to any axis.
    config: what it does.
    nodes: how workers are mapped.
    transform: of their images.
    image_shape: (H, W, C).
    sizes: [n] the examples of all workers, host.

  Raises:
    UserError: options that the model's norm denies.
  """
  spec = model.norm
  local_stats = config.batch_stats == "local"
  check_policy(config.batch_stats, spec)
  if spec.across_nodes and config.weighting != "examples":
    raise UserError(
      f"norm {spec.name!r} gives the gradient of the joint batch, in which every example counts "
      "alike; use weighting=examples."
    )
  model = model.clone(norm=spec.bind(nodes.axis_names))
  master = optimizer(config.local)
  stats_policy = combiner(config.batch_stats if spec.updates_running_statistics else "frozen")
  takes, times = config.batches(sizes), len(sizes) if config.reduction == "sum" else 1
  parts, equal = config.local.accumulate, config.batch_split == "equal"
  largest = -(-int(takes.max()) // parts) * parts  # parts are equal; what is over is padding
  gradient = make_step_gradient(model, config.local, transform, largest)

  def init(variables: Variables) -> Master:
    return Master(variables, master.init(variables["params"]))

  def init_worker(server: Master) -> PyTree:
    return server.variables["batch_stats"] if local_stats else ()

  def worker_variables(server: Master, own: PyTree) -> Variables:
    return {**server.variables, "batch_stats": own} if local_stats else server.variables

  def worker(shared, item):
    (server, context), (row, own) = shared, item
    variables = worker_variables(server, own)
    take = None if equal else jnp.asarray(takes)[context.data.clients[row]]
    grads, stats, examples, metrics = gradient(context, row, variables, take)
    here = (row >= 0).astype(jnp.float32)
    weight = examples if config.weighting == "examples" else here
    sums = {
      "weight": weight,
      "gradient": trees.scale(grads, weight),
      "stats": stats_policy.to_sums(stats, weight, server.variables.get("batch_stats", {})),
      "metrics": metrics,
    }
    return sums, stats if local_stats else ()

  def step(server: Master, workers: PyTree, rows: Array, context: Context):
    sums, workers = nodes.map_reduce(worker, (server, context), (rows, workers), (False, HELD))
    params = server.variables["params"]
    average = trees.scale(sums["gradient"], 1 / sums["weight"])
    updates, opt_state = master.update(average, server.opt_state, params)
    params = optax.apply_updates(params, trees.scale(updates, -context.rate * times))
    variables = {**server.variables, "params": params}
    if "batch_stats" in variables:
      variables["batch_stats"] = stats_policy.from_sums(
        sums["stats"], sums["weight"], variables["batch_stats"]
      )
    return Master(variables, opt_state), workers, sums["metrics"]

  return Algorithm(
    init=init,
    init_client=init_worker,
    round=step,
    variables=lambda server: server.variables,
    client_variables=worker_variables if local_stats else None,
    local_steps=lambda sizes: 0 * sizes + 1,
    cost=round_cost(
      model.clone(norm=spec), image_shape, config.batch_stats, config.local.frozen_paths
    ),
  )
