"""Federated averaging (McMahan et al. 2017), with server optimizers and FedProx."""

import dataclasses
from typing import Any, NamedTuple

import optax

from fedjax_norm.algorithms.averaging import AveragingConfig, ServerRateConfig
from fedjax_norm.algorithms.contract import Averaging, ClientData, Context, Method, Setup, Update
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import optimizer
from fedjax_norm.options import option, refuse_replaced
from fedjax_norm.typing import PyTree, Variables


@dataclasses.dataclass(frozen=True)
class FedAvgConfig(ServerRateConfig, AveragingConfig):
  """Options of FedAvg.

  Attributes:
    own_server_optimizer: an optax transformation of the negated mean change, in place of
      ``server_optimizer``.
  """

  group = "algorithm"

  client_momentum: str | None = option(
    None,
    "What becomes of the clients' momentum after a round: it is reset to zero, stays on the client "
    "(local; paper 004, Alg. 2), or is averaged by the server and sent back (global; paper 002). "
    "The default is local if all clients take part in each round, else reset.",
    choices=("reset", "local", "global"),
    needs="momentum",
  )
  prox: float = option(
    0.0, "mu of FedProx (Li et al. 2020): mu / 2 |w - w_round|^2 is added to the loss.", least=0
  )
  server_optimizer: str = option(
    "sgd",
    "The server's optimizer, applied to the negated mean change; sgd at rate 1 is plain averaging.",
    choices=("sgd", "momentum", "adam", "yogi", "adagrad"),
  )
  server_momentum: float = option(
    0.9, "Momentum of the server.", above=0, below=1, needs="server_optimizer=momentum"
  )
  own_server_optimizer: optax.GradientTransformation | None = None

  def check(self):
    """Refuses options that contradict each other or would do nothing."""
    if self.prox and self.local_epochs is None and self.local_steps in (None, 1):
      raise UserError(
        "prox pulls a client back to where its round began, which a single local step never "
        "leaves; take more local_steps or drop it."
      )
    if self.own_server_optimizer is not None:
      refuse_replaced(
        self, "own_server_optimizer", "server_optimizer", "server_lr", "server_momentum"
      )
    if self.optimizer is not None and self.client_momentum == "global":
      raise UserError(
        "the server averages the momentum of SGD and not the state of another optimizer; use "
        "client_momentum=local or reset."
      )
    if self.fedbn and self.client_momentum == "global":
      raise UserError(
        "FedBN keeps norm parameters on the client, so their momentum cannot be averaged; use "
        "client_momentum=local or reset."
      )


class Server(NamedTuple):
  """The server's state.

  Attributes:
    variables: the global model.
    opt_state: the server optimizer's state.
    momentum: the clients' mean optimizer state under ``client_momentum='global'``, else None.
  """

  variables: Variables
  opt_state: PyTree
  momentum: PyTree


class Downlink(NamedTuple):
  """What a client receives: the global model, and the momentum where the server averages it."""

  variables: Variables
  momentum: PyTree


def server_optimizer(config: FedAvgConfig) -> optax.GradientTransformation:
  """The server's optimizer; Adam, Yogi and Adagrad have tau = 1e-3 (Reddi et al. 2021).

  Adagrad's stands under the root, as tau^2.
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
  """Federated averaging (McMahan et al. 2017; paper 004, Alg. 2).

  A round, for the clients k of the cohort: take the server's w, run local steps from it to w_k, and

    w <- w + server_optimizer(sum_k p_k (w_k - w)),  p_k = weight_k / sum of weights.
  """
  of_server = server_optimizer(config)
  momentum_too = config.client_momentum == "global"

  def init(variables: Variables) -> Server:
    params = variables["params"]
    momentum = optimizer(config).init(params) if momentum_too else None
    return Server(variables, of_server.init(params), momentum)

  def client(received: Downlink, own: PyTree, examples: ClientData, context: Context) -> Update:
    start = received.variables["params"]

    def distance(params: PyTree) -> Any:
      return config.prox / 2 * optax.tree.norm(optax.tree.sub(params, start), squared=True)

    trained = context.train(
      received.variables,
      examples,
      config.steps(examples.size),
      received.momentum,
      extra_loss=distance if config.prox else None,
    )
    change = optax.tree.sub(trained.variables["params"], start)
    momentum = trained.opt_state if momentum_too else None
    upload = {"change": change, "momentum": momentum}
    return Update(upload, config.weight(examples, trained), trained)

  def server(state: Server, mean: PyTree, context: Context) -> Server:
    params = state.variables["params"]
    updates, opt_state = of_server.update(
      optax.tree.scale(-1, mean["change"]), state.opt_state, params
    )
    params = optax.apply_updates(params, updates)
    return Server({**state.variables, "params": params}, opt_state, mean["momentum"])

  return Averaging(
    init=init,
    client=client,
    server=server,
    downlink=lambda state: Downlink(state.variables, state.momentum),
  )


FEDAVG = Method("fedavg", FedAvgConfig, fedavg, "Federated averaging of models after local steps.")
