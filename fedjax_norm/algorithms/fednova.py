"""FedNova: normalized averaging of unequal numbers of local steps (Wang et al. 2020)."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import optax

from fedjax_norm.algorithms.averaging import AveragingConfig, ServerRateConfig
from fedjax_norm.algorithms.contract import Averaging, ClientData, Context, Method, Setup, Update
from fedjax_norm.errors import UserError
from fedjax_norm.options import option
from fedjax_norm.typing import Array, PyTree, Variables


@dataclasses.dataclass(frozen=True)
class FedNovaConfig(ServerRateConfig, AveragingConfig):
  """Options of FedNova."""

  client_momentum: str = option(
    "reset",
    "What becomes of a client's momentum after a round: it is reset to zero, as a change is "
    "normalized by the gradients of its own round.",
    choices=("reset",),
    needs="momentum",
  )

  def check(self):
    """Refuses an optimizer of which it is unknown how it adds up gradients."""
    if self.optimizer is not None:
      raise UserError("FedNova counts how SGD adds up gradients; drop the optimizer of your own.")


def norm_of(config: FedNovaConfig, steps: Array) -> Array:
  """|a|_1: how often gradients are in the change of so many steps, float32."""
  rho, steps = config.momentum, jnp.maximum(steps, 1).astype(jnp.float32)
  norm = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
  return steps + rho * norm if config.nesterov else norm


class Server(NamedTuple):
  """The server's state: the global model x."""

  variables: Variables


def fednova(config: FedNovaConfig, setup: Setup) -> Averaging:
  """Normalized averaging (Wang et al. 2020, with the a_i of SGD with momentum).

  Client i takes tau_i local steps from x to y_i, in whose sum each gradient counts as a_i says:

    d_i = (y_i - x) / |a_i|_1;  |a_i|_1 = tau_i without momentum

  x <- x + server_lr tau_eff sum_i p_i d_i,  tau_eff = sum_i p_i |a_i|_1
  """

  def client(received: Server, own: PyTree, examples: ClientData, context: Context) -> Update:
    steps = config.steps(examples.size)
    trained = context.train(received.variables, examples, steps)
    change = optax.tree.sub(trained.variables["params"], received.variables["params"])
    norm = norm_of(config, steps)
    upload = {"change": optax.tree.scale(1 / norm, change), "norm": norm}
    return Update(upload, config.weight(examples, trained), trained)

  def server(state: Server, mean: PyTree, context: Context) -> Server:
    step = optax.tree.scale(config.server_lr * mean["norm"], mean["change"])
    return Server({**state.variables, "params": optax.tree.add(state.variables["params"], step)})

  return Averaging(init=Server, client=client, server=server)


FEDNOVA = Method("fednova", FedNovaConfig, fednova, "FedAvg of changes normalized by their steps.")
