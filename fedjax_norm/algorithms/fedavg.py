"""Federated averaging (McMahan et al. 2017), with server optimizers and FedProx."""

import dataclasses
from typing import NamedTuple

import optax

from fedjax_norm.algorithms.averaging_config import AveragingConfig, ServerRateConfig
from fedjax_norm.algorithms.contract import Averaging, ClientData, Context, Method, Setup, Update
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import optimizer
from fedjax_norm.options import option, refuse_replaced
from fedjax_norm.typing import Array, PyTree, Variables


@dataclasses.dataclass(frozen=True)
class FedAvgConfig(ServerRateConfig, AveragingConfig):
  """Options of FedAvg.

  Attributes:
    own_server_optimizer: user-defined optax transformation that replaces ``server_optimizer``; its
      gradient is the negated mean change of the clients' models.
  """

  client_momentum: str | None = option(
    None,
    "What happens to a client's momentum after a round: it is set to zero (reset), stays on the "
    "client (local; paper 004, Alg. 2), or is averaged by the server and sent back (global; paper "
    "002). If unset: local if all clients take part in each round, else reset.",
    choices=("reset", "local", "global"),
    needs="momentum",
  )
  prox: float = option(
    0.0,
    "Strength mu of FedProx (Li et al. 2020), which pulls a client's weights w back to the weights "
    "w_round at the start of the round: mu / 2 |w - w_round|^2 is added to its loss. 0: FedAvg.",
    least=0,
  )
  server_optimizer: str = option(
    "sgd",
    "Optimizer of the server; its gradient is the negated mean change of the clients' models. sgd "
    "with --server_lr=1 averages the models.",
    choices=("sgd", "momentum", "adam", "yogi", "adagrad"),
  )
  server_momentum: float = option(
    0.9, "Momentum of the server optimizer.", above=0, below=1, needs="server_optimizer=momentum"
  )
  own_server_optimizer: optax.GradientTransformation | None = None

  def check(self) -> None:
    """Raises UserError if options contradict each other or would have no effect."""
    if self.prox and self.local_epochs is None and self.local_steps in (None, 1):
      raise UserError(
        "--prox pulls a client back to the weights at the start of the round, which has no effect "
        "on a single local step; give more --local_steps or drop --prox."
      )
    if self.own_server_optimizer is not None:
      refuse_replaced(
        self, "own_server_optimizer", "server_optimizer", "server_lr", "server_momentum"
      )
    if self.optimizer is not None and self.client_momentum == "global":
      raise UserError(
        "the server can average the momentum of SGD, but not the state of a user-defined "
        "optimizer; use --client_momentum=local or reset."
      )
    if self.fedbn and self.client_momentum == "global":
      raise UserError(
        "--fedbn keeps norm parameters on the client, so the momentum of these parameters cannot "
        "be averaged; use --client_momentum=local or reset."
      )


class ServerState(NamedTuple):
  """The server's state.

  Attributes:
    variables: global model.
    opt_state: state of the server optimizer.
    momentum: mean optimizer state of the clients if ``client_momentum`` is global, else None.
  """

  variables: Variables
  opt_state: PyTree
  momentum: PyTree


class Download(NamedTuple):
  """What a client downloads: the global model, and the mean momentum or None."""

  variables: Variables
  momentum: PyTree


def make_server_optimizer(config: FedAvgConfig) -> optax.GradientTransformation:
  """Returns the server optimizer; Adam, Yogi and Adagrad have tau = 1e-3 (Reddi et al. 2021).

  optax adds Adagrad's tau under the square root, so its ``eps`` is tau^2.
  """
  rate = config.server_lr
  if config.own_server_optimizer is not None:
    return config.own_server_optimizer
  match config.server_optimizer:
    case "sgd":
      return optax.sgd(rate)
    case "momentum":
      return optax.sgd(rate, config.server_momentum)
    case "adam":
      return optax.adam(rate, b1=0.9, b2=0.99, eps=1e-3)
    case "yogi":
      return optax.yogi(rate, b1=0.9, b2=0.99, eps=1e-3)
    case _:
      return optax.adagrad(rate, initial_accumulator_value=0.0, eps=1e-6)


def fedavg(config: FedAvgConfig, setup: Setup) -> Averaging:
  """Makes federated averaging (McMahan et al. 2017; paper 004, Alg. 2).

  In a round, each client k of the cohort takes local steps from the server's w to w_k, and

    w <- w + server_optimizer(sum_k p_k (w_k - w)),  p_k = weight_k / sum of weights.
  """
  server_optimizer = make_server_optimizer(config)
  average_momentum = config.client_momentum == "global"

  def init(variables: Variables) -> ServerState:
    params = variables["params"]
    momentum = optimizer(config).init(params) if average_momentum else None
    return ServerState(variables, server_optimizer.init(params), momentum)

  def client(
    download: Download, client_state: PyTree, examples: ClientData, context: Context
  ) -> Update:
    start = download.variables["params"]

    def proximal_term(params: PyTree) -> Array:
      return config.prox / 2 * optax.tree.norm(optax.tree.sub(params, start), squared=True)

    trained = context.train(
      download.variables,
      examples,
      config.steps(examples.size),
      download.momentum,
      extra_loss=proximal_term if config.prox else None,
    )
    change = optax.tree.sub(trained.variables["params"], start)
    momentum = trained.opt_state if average_momentum else None
    upload = {"change": change, "momentum": momentum}
    return Update(upload, config.weight(examples, trained), trained)

  def server(state: ServerState, mean: PyTree, context: Context) -> ServerState:
    params, gradient = state.variables["params"], optax.tree.scale(-1, mean["change"])
    updates, opt_state = server_optimizer.update(gradient, state.opt_state, params)
    params = optax.apply_updates(params, updates)
    return ServerState({**state.variables, "params": params}, opt_state, mean["momentum"])

  return Averaging(
    init=init,
    client=client,
    server=server,
    downlink=lambda server: Download(server.variables, server.momentum),
  )


FEDAVG = Method("fedavg", FedAvgConfig, fedavg, "Federated averaging of models after local steps.")
