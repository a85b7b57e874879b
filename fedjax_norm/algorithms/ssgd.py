"""Synchronous SGD (paper 000, Alg. 1; BSP of paper 004): clients send gradients."""

import dataclasses
from typing import NamedTuple, Self

import jax.numpy as jnp
import numpy as np
import optax

from fedjax_norm.algorithms import contract
from fedjax_norm.algorithms.contract import Averaging, ClientData, Context, Method, Setup, Update
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import LocalConfig, optimizer
from fedjax_norm.norm import NormSpec
from fedjax_norm.options import option
from fedjax_norm.typing import PyTree, Variables


@dataclasses.dataclass(frozen=True)
class SsgdConfig(LocalConfig):
  """Options of SSGD; clipping, weight decay and momentum act on the averaged gradient.

  Attributes:
    equal_workers: whether the default of ``weighting`` is uniform, unless the norm merges batches.
  """

  group = "algorithm"

  weighting: str | None = option(
    None,
    "Weight of a client's gradient in the average: the examples of its batch, which gives the "
    "gradient of the joint batch (paper 000, eq. 8), or uniform (eq. 5). The default is examples; "
    "for bsp it is uniform, unless the norm merges the clients' batches.",
    choices=("examples", "uniform"),
  )
  batch_split: str = option(
    "equal",
    "Division of the joint batch: --batch_size examples for each client (equal), or in proportion "
    "to the clients' data, so that all epochs have the same number of steps.",
    choices=("equal", "proportional"),
  )
  reduction: str = option(
    "mean",
    "Whether the server steps with the mean of the clients' gradients or with their sum, as Gaia "
    "and DGC add up updates; the sum multiplies the step by the number of clients.",
    choices=("mean", "sum"),
  )

  equal_workers: bool = False

  def weighs_examples(self, spec: NormSpec) -> bool:
    """Returns whether clients are weighted by the examples of their batches."""
    if self.weighting is None:
      return not self.equal_workers or spec.across_clients
    return self.weighting == "examples"

  def fill_defaults(self, spec: NormSpec, all_clients: bool) -> Self:
    """Returns the options with all defaults filled in."""
    weighting = "examples" if self.weighs_examples(spec) else "uniform"
    return dataclasses.replace(super().fill_defaults(spec, all_clients), weighting=weighting)

  @property
  def depends_on_seed(self) -> bool:
    """Whether the compiled program depends on the clients' numbers of examples."""
    return self.batch_split == "proportional"

  def step_examples(self, sizes: np.ndarray) -> np.ndarray:
    """Returns every client's batch size [n] int32, given the clients' numbers of examples [n]."""
    if self.batch_split == "equal":
      return np.full(len(sizes), self.batch_size, np.int32)
    share = np.rint(len(sizes) * self.batch_size * (sizes / sizes.sum()))
    return np.maximum(share, 1).astype(np.int32)


class ServerState(NamedTuple):
  """The server's state: the model, whose weights are W_t, and the state of its optimizer."""

  variables: Variables
  opt_state: PyTree


class Download(NamedTuple):
  """What a client downloads: the model."""

  variables: Variables


def ssgd(config: SsgdConfig, setup: Setup) -> Averaging:
  """Makes synchronous SGD; a round is one step of all clients n, each with a batch b_n:

    W_{t+1} <- W_t - eta sgd(sum_n p_n gradient(W_t, b_n))

  Raises:
    UserError: a weighting that does not fit a norm across clients.
  """
  spec = setup.model.norm
  by_examples = config.weighs_examples(spec)
  if spec.across_clients and not by_examples:
    raise UserError(
      f"norm {spec.name!r} gives the gradient of the joint batch, in which all examples have the "
      "same weight; use weighting=examples."
    )
  server_optimizer = optimizer(config)
  batch_sizes = config.step_examples(np.asarray(setup.data.sizes))
  # The accumulated parts of a batch have equal sizes; the remainder is padding.
  batch_size = -(-int(batch_sizes.max()) // config.accumulate) * config.accumulate
  factor = setup.num_clients if config.reduction == "sum" else 1

  def init(variables: Variables) -> ServerState:
    return ServerState(variables, server_optimizer.init(variables["params"]))

  def client(
    download: Download, client_state: PyTree, examples: ClientData, context: Context
  ) -> Update:
    equal = config.batch_split == "equal"
    take = None if equal else jnp.asarray(batch_sizes)[examples.client]
    gradient, trained = context.gradient(download.variables, examples, batch_size, take)
    weight = trained.metrics.examples if by_examples else jnp.int32(1)
    return Update(gradient, weight, trained)

  def server(state: ServerState, mean_gradient: PyTree, context: Context) -> ServerState:
    params = state.variables["params"]
    updates, opt_state = server_optimizer.update(mean_gradient, state.opt_state, params)
    params = optax.apply_updates(params, optax.tree.scale(-context.rate * factor, updates))
    return ServerState({**state.variables, "params": params}, opt_state)

  return Averaging(init, client, server, downlink=lambda server: Download(server.variables))


SSGD = Method(
  "ssgd",
  SsgdConfig,
  ssgd,
  "Synchronous SGD: one step of all clients per round.",
  stepwise=True,
  all_clients=True,
)
BSP = dataclasses.replace(
  SSGD,
  name="bsp",
  help="Synchronous SGD that adds up the clients' updates (paper 004).",
  defaults={"reduction": "sum", "equal_workers": True, "lr": 0.01},
  one_process=True,
  theta=contract.Theta(lambda config, rounds: np.zeros(rounds, np.float32)),
)
