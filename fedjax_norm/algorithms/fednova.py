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
    "What happens to a client's momentum after a round: it is reset to zero, because a change is "
    "normalized by the gradients of the same round.",
    choices=("reset",),
    needs="momentum",
  )

  def check(self) -> None:
    """Raises UserError for a user-defined optimizer, whose sum of gradients is unknown."""
    if self.optimizer is not None:
      raise UserError("FedNova counts how SGD adds up gradients; drop the optimizer of your own.")


def gradient_weight(config: FedNovaConfig, steps: Array) -> Array:
  """Returns |a|_1, the total weight of the gradients in the change of some steps, float32."""
  rho, steps = config.momentum, jnp.maximum(steps, 1).astype(jnp.float32)
  weight = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
  return steps + rho * weight if config.nesterov else weight


class ServerState(NamedTuple):
  """The server's state: the global model x."""

  variables: Variables


def fednova(config: FedNovaConfig, setup: Setup) -> Averaging:
  """Makes FedNova (Wang et al. 2020, with the a_i of SGD with momentum).

  Client i takes tau_i local steps from x to y_i, whose sum weights the gradients by a_i:

    d_i = (y_i - x) / |a_i|_1;  |a_i|_1 = tau_i without momentum

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
