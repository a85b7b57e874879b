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
    equal_workers: whether an unset ``weighting`` means uniform, unless the norm merges batches.
  """

  group = "algorithm"

  weighting: str | None = option(
    None,
    "Weight of a client's gradient in the average: the number of examples in its batch (examples), "
    "which gives the gradient of the joint batch of all clients (paper 000, eq. 8), or 1 (uniform; "
    "eq. 5). If unset: examples; for bsp uniform, unless the norm merges the clients' batches.",
    choices=("examples", "uniform"),
  )
  batch_split: str = option(
    "equal",
    "Batch sizes of the clients: --batch_size for each client (equal), or in proportion to the "
    "clients' numbers of examples, so that all clients have equally many steps per epoch "
    "(proportional).",
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
    """Returns the options with the defaults that depend on the norm or on full participation."""
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
  """The server's state: the model with the weights W_t, and the state of the SGD."""

  variables: Variables
  opt_state: PyTree


class Download(NamedTuple):
  """What a client downloads: the variables of the global model."""

  variables: Variables


def ssgd(config: SsgdConfig, setup: Setup) -> Averaging:
  """Makes synchronous SGD; a round is one step of all clients n, each with a batch b_n:

    W_{t+1} <- W_t - eta sgd(sum_n p_n gradient(W_t, b_n))

  eta is the learning rate, and p_n the weight of client n divided by the sum of weights. With
  ``reduction=sum`` the step is multiplied by the number of clients. Raises UserError for uniform
  weights if the norm merges the clients' batches.
  """
  spec = setup.model.norm
  by_examples = config.weighs_examples(spec)
  if spec.across_clients and not by_examples:
    raise UserError(
      f"norm {spec.name!r} gives the gradient of the joint batch, in which all examples have the "
      "same weight; give --weighting=examples."
    )
  server_optimizer = optimizer(config)
  batch_sizes = config.step_examples(np.asarray(setup.data.sizes))
  # With ``accumulate``, all parts of a batch have the same size; the last one is padded.
  batch_size = -(-int(batch_sizes.max()) // config.accumulate) * config.accumulate
  factor = setup.num_clients if config.reduction == "sum" else 1
  proportional = config.batch_split == "proportional"

  def init(variables: Variables) -> ServerState:
    return ServerState(variables, server_optimizer.init(variables["params"]))

  def client(
    download: Download, client_state: PyTree, examples: ClientData, context: Context
  ) -> Update:
    take = jnp.asarray(batch_sizes)[examples.client] if proportional else None
    gradient, trained = context.gradient(download.variables, examples, batch_size, take)
    weight = trained.metrics.examples if by_examples else jnp.int32(1)
    return Update(gradient, weight, trained)

  def server(state: ServerState, mean_gradient: PyTree, context: Context) -> ServerState:
    params = state.variables["params"]
    updates, opt_state = server_optimizer.update(mean_gradient, state.opt_state, params)
    params = optax.apply_updates(params, optax.tree.scale(-context.rate * factor, updates))
    return ServerState({**state.variables, "params": params}, opt_state)

  return Averaging(
    init, client, server, downlink=lambda server: Download(server.variables), uploads_gradient=True
  )


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
