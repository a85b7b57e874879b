"""FedNova: normalized averaging of unequal numbers of local steps (Wang et al. 2020)."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import optax

from fedjax_norm.algorithms.averaging_config import AveragingConfig, ServerRateConfig
from fedjax_norm.algorithms.contract import Averaging, ClientData, Context, Method, Setup, Update
from fedjax_norm.errors import UserError
from fedjax_norm.options import option
from fedjax_norm.typing import Array, PyTree, Variables


@dataclasses.dataclass(frozen=True)
class FedNovaConfig(ServerRateConfig, AveragingConfig):
  """Options of FedNova."""

  client_momentum: str = option(
    "reset",
    "FedNova always sets a client's momentum to zero after a round (reset), because it normalizes "
    "a client's change by the gradients of one round.",
    choices=("reset",),
    needs="momentum",
  )

  def check(self) -> None:
    """Raises UserError for a user-defined optimizer."""
    if self.optimizer is not None:
      raise UserError(
        "FedNova needs the weights with which SGD adds up gradients, which are unknown for a "
        "user-defined optimizer; drop the option optimizer."
      )


def gradient_weight(config: FedNovaConfig, steps: Array) -> Array:
  """Returns |a|_1, the sum of the gradients' weights a in the change after ``steps`` steps."""
  rho, steps = config.momentum, jnp.maximum(steps, 1).astype(jnp.float32)
  weight = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
  return steps + rho * weight if config.nesterov else weight


class ServerState(NamedTuple):
  """The server's state: the variables of the global model x."""

  variables: Variables


def fednova(config: FedNovaConfig, setup: Setup) -> Averaging:
  """Makes FedNova (Wang et al. 2020) for SGD with momentum.

  Client i takes tau_i local steps from the global model x to y_i. In the change y_i - x, the
  steps' gradients have the weights a_i (a vector):

    d_i = (y_i - x) / |a_i|_1;  |a_i|_1 = tau_i without momentum

  The server, with the weights p_i of the clients in the average, computes

    x <- x + server_lr tau_eff sum_i p_i d_i,  tau_eff = sum_i p_i |a_i|_1
  """

  def client(
    server: ServerState, client_state: PyTree, examples: ClientData, context: Context
  ) -> Update:
    steps = config.steps(examples.size)
    trained = context.train(server.variables, examples, steps)
    change = optax.tree.sub(trained.variables["params"], server.variables["params"])
    norm = gradient_weight(config, steps)
    upload = {"change": optax.tree.scale(1 / norm, change), "norm": norm}
    return Update(upload, config.weight(examples, trained), trained)

  def server(state: ServerState, mean: PyTree, context: Context) -> ServerState:
    step = optax.tree.scale(config.server_lr * mean["norm"], mean["change"])
    params = optax.tree.add(state.variables["params"], step)
    return ServerState({**state.variables, "params": params})

  return Averaging(init=ServerState, client=client, server=server)


FEDNOVA = Method("fednova", FedNovaConfig, fednova, "FedAvg of changes normalized by their steps.")
