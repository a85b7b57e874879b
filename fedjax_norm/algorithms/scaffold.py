"""SCAFFOLD: stochastic controlled averaging (Karimireddy et al. 2020)."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import optax

from fedjax_norm.algorithms.averaging_config import AveragingConfig, ServerRateConfig
from fedjax_norm.algorithms.contract import Averaging, ClientData, Context, Method, Setup, Update
from fedjax_norm.typing import PyTree, Variables


@dataclasses.dataclass(frozen=True)
class ScaffoldConfig(ServerRateConfig, AveragingConfig):
  """Options of SCAFFOLD; ``weighting`` applies to the models, not to the control variates."""


class ServerState(NamedTuple):
  """The server's state: the global model x and the mean control variate c."""

  variables: Variables
  control: PyTree


def scaffold(config: ScaffoldConfig, setup: Setup) -> Averaging:
  """Makes SCAFFOLD with option II of Alg. 1; all control variates are zero at first.

  Client i of the cohort S (a subset of all N clients), with the control variate c_i, takes K local
  steps from the global model x to y_i, with the gradients g_i and the learning rate eta:

    y_i <- y_i - eta (g_i(y_i) + c - c_i)
    c_i+ <- c_i - c + (x - y_i) / (K eta)

  x <- x + server_lr mean(y_i - x);  c <- c + |S| / N mean(c_i+ - c_i)

  Momentum, weight decay and clipping act only on g_i, not on the correction c - c_i.
  """

  def init(variables: Variables) -> ServerState:
    return ServerState(variables, optax.tree.zeros_like(variables["params"]))

  def client(
    server: ServerState, client_control: PyTree, examples: ClientData, context: Context
  ) -> Update:
    x, steps = server.variables["params"], config.steps(examples.size)
    correction = optax.tree.sub(server.control, client_control)
    trained = context.train(server.variables, examples, steps, correction=correction)
    change = optax.tree.sub(trained.variables["params"], x)
    drift = optax.tree.scale(-1 / (jnp.maximum(steps, 1) * context.rate), change)
    control = optax.tree.sub(drift, correction)
    upload = {"model": change, "control": optax.tree.sub(control, client_control)}
    return Update(upload, config.weight(examples, trained), trained, control)

  def server(state: ServerState, mean: PyTree, context: Context) -> ServerState:
    step = optax.tree.scale(config.server_lr, mean["model"])
    params = optax.tree.add(state.variables["params"], step)
    share = context.participants / context.num_clients
    control = optax.tree.add(state.control, optax.tree.scale(share, mean["control"]))
    return ServerState({**state.variables, "params": params}, control)

  return Averaging(init, client, server, lambda server: server.control, equal=("control",))


SCAFFOLD = Method("scaffold", ScaffoldConfig, scaffold, "FedAvg with control variates.")
