"""Synchronous SGD (paper 000, Alg. 1; BSP of paper 004): workers send gradients, a master steps."""

import dataclasses
from typing import NamedTuple, Self

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm.algorithms.contract import (
  Averaging,
  ClientData,
  Context,
  Method,
  Setup,
  Theta,
  Update,
)
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import LocalConfig, optimizer
from fedjax_norm.norm import NormSpec
from fedjax_norm.options import option
from fedjax_norm.typing import PyTree, Variables


@dataclasses.dataclass(frozen=True)
class SsgdConfig(LocalConfig):
  """Options of SSGD; clipping, weight decay and momentum act on the averaged gradient.

  Attributes:
    equal_workers: whether workers count alike unless ``weighting`` or the norm says otherwise.
  """

  group = "algorithm"

  weighting: str | None = option(
    None,
    "Weight of a worker's gradient in the average: the examples of its batch, which gives the "
    "gradient of the joint batch (paper 000, eq. 8), or uniform (eq. 5). The default is examples; "
    "of bsp it is uniform, unless the norm merges the workers' batches.",
    choices=("examples", "uniform"),
  )
  batch_split: str = option(
    "equal",
    "How the joint batch is divided: --batch_size examples for each worker (equal), or in "
    "proportion to the workers' data, so that all go through theirs in the same time.",
    choices=("equal", "proportional"),
  )
  reduction: str = option(
    "mean",
    "Whether the master steps with the mean of the workers' gradients, or with their sum, as Gaia "
    "and DGC add up their updates: the step is then as many times as large as there are workers.",
    choices=("mean", "sum"),
  )

  equal_workers: bool = False

  def weighs_examples(self, spec: NormSpec) -> bool:
    """Whether workers are weighted by the examples of their batches."""
    if self.weighting is None:
      return not self.equal_workers or spec.across_clients
    return self.weighting == "examples"

  def fill_defaults(self, spec: NormSpec, all_clients: bool) -> Self:
    """The options in force."""
    weighting = "examples" if self.weighs_examples(spec) else "uniform"
    return dataclasses.replace(super().fill_defaults(spec, all_clients), weighting=weighting)

  @property
  def depends_on_seed(self) -> bool:
    """Whether the compiled program depends on the sizes of the workers' data."""
    return self.batch_split == "proportional"

  def step_examples(self, sizes: np.ndarray) -> np.ndarray:
    """The examples of every worker's batch: [n] int32, given their numbers of examples [n]."""
    if self.batch_split == "equal":
      return np.full(len(sizes), self.batch_size, np.int32)
    share = np.rint(len(sizes) * self.batch_size * (sizes / sizes.sum()))
    return np.maximum(share, 1).astype(np.int32)


class Master(NamedTuple):
  """The master's state: the model, whose weights are W_t, and its optimizer's state."""

  variables: Variables
  opt_state: PyTree


class Downlink(NamedTuple):
  """What a worker receives: the model."""

  variables: Variables


def ssgd(config: SsgdConfig, setup: Setup) -> Averaging:
  """Synchronous SGD; a round is one step of all workers n, each with a batch b_n:

    W_{t+1} <- W_t - eta sgd(sum_n p_n gradient(W_t, b_n))

  Raises:
    UserError: a weighting that a norm across nodes cannot honour.
  """
  spec = setup.model.norm
  by_examples = config.weighs_examples(spec)
  if spec.across_clients and not by_examples:
    raise UserError(
      f"norm {spec.name!r} gives the gradient of the joint batch, in which every example counts "
      "alike; use weighting=examples."
    )
  master = optimizer(config)
  takes = config.step_examples(np.asarray(setup.data.sizes))
  # Parts of a batch are equal; what is left over is padding.
  places = -(-int(takes.max()) // config.accumulate) * config.accumulate
  times = setup.num_clients if config.reduction == "sum" else 1

  def init(variables: Variables) -> Master:
    return Master(variables, master.init(variables["params"]))

  def client(received: Downlink, own: PyTree, examples: ClientData, context: Context) -> Update:
    take = None if config.batch_split == "equal" else jnp.asarray(takes)[examples.client]
    gradient, trained = context.gradient(received.variables, examples, places, take)
    weight = trained.metrics.examples if by_examples else jnp.int32(1)
    return Update(gradient, weight, trained)

  def server(state: Master, mean_gradient: PyTree, context: Context) -> Master:
    params = state.variables["params"]
    updates, opt_state = master.update(mean_gradient, state.opt_state, params)
    params = optax.apply_updates(params, optax.tree.scale(-context.rate * times, updates))
    return Master({**state.variables, "params": params}, opt_state)

  return Averaging(init, client, server, downlink=lambda state: Downlink(state.variables))


SSGD = Method(
  "ssgd",
  SsgdConfig,
  ssgd,
  "Synchronous SGD: one step of all workers a round.",
  stepwise=True,
  all_clients=True,
)
BSP = dataclasses.replace(
  SSGD,
  name="bsp",
  help="Synchronous SGD that adds up the workers' updates (paper 004).",
  defaults={"reduction": "sum", "equal_workers": True, "lr": 0.01},
  one_process=True,
  theta=Theta(lambda config, rounds: np.zeros(rounds, np.float32)),
)
