"""Federated averaging, with the ways to keep momentum and batch statistics between rounds."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from fedjax_norm import models, trees
from fedjax_norm.algorithms.base import HELD, Algorithm, Context, round_cost
from fedjax_norm.algorithms.options import check_choices, check_local_length
from fedjax_norm.algorithms.statistics import POLICIES, check_policy, combiner
from fedjax_norm.data.federated import Transform, draw, steps_per_epoch
from fedjax_norm.errors import UserError
from fedjax_norm.keys import Stream, stream
from fedjax_norm.local import LocalConfig, make_client_update, optimizer
from fedjax_norm.nodes import Nodes
from fedjax_norm.typing import Array, PyTree, Variables

WEIGHTINGS = ("examples", "processed", "uniform")
MOMENTA = ("reset", "local", "global")
SERVER_OPTIMIZERS = ("sgd", "momentum", "adam", "yogi", "adagrad")


@dataclasses.dataclass(frozen=True)
class FedAvgConfig:
  """What FedAvg does; everything here is compiled in.

  Attributes:
    local: how a client takes a step.
    local_steps: steps a round; 1 when ``local_epochs`` is not given either.
    local_epochs: passes over the client's data a round, instead.
    weighting: of a client in the average: by its ``examples``, by those it ``processed`` in the
      round, or ``uniform``.
    client_momentum: what becomes of the clients' momentum after a round: ``reset`` to zero, kept on
      the client (``local``; paper 004 Alg. 2), or averaged by the server and sent back (``global``;
      paper 002).
    server_optimizer: of ``SERVER_OPTIMIZERS``, applied to the negated mean change; SGD at rate 1 is
      plain averaging.
    server_rate: its learning rate.
    server_momentum: of the ``momentum`` optimizer.
    batch_stats: how running statistics are combined: ``mean``, ``moments``, ``local`` (SiloBN) or
      ``recalibrate``.
    fedbn: whether the norms' parameters stay on the client too (FedBN).
  """

  local: LocalConfig = dataclasses.field(default_factory=LocalConfig)
  local_steps: int | None = None
  local_epochs: int | None = None
  weighting: str = "examples"
  client_momentum: str = "reset"
  server_optimizer: str = "sgd"
  server_rate: float = 1.0
  server_momentum: float = 0.9
  batch_stats: str = "mean"
  fedbn: bool = False

  def __post_init__(self):
    check_choices(
      self,
      weighting=WEIGHTINGS,
      client_momentum=MOMENTA,
      server_optimizer=SERVER_OPTIMIZERS,
      batch_stats=POLICIES,
    )
    check_local_length(self.local_steps, self.local_epochs)
    if self.local.prox and self.local_epochs is None and self.local_steps in (None, 1):
      raise UserError(
        "prox pulls a client back to where its round began, which a single local step never "
        "leaves; take more local_steps or drop it."
      )
    if not self.server_rate > 0:
      raise UserError(f"the server's rate is {self.server_rate}; server_lr must be positive.")
    if not 0 < self.server_momentum < 1:
      raise UserError(f"server_momentum is {self.server_momentum}; it must be between 0 and 1.")
    if self.client_momentum != "reset" and not self.local.momentum:
      raise UserError(
        f"client_momentum={self.client_momentum} keeps a momentum that is 0; set momentum too."
      )
    if self.fedbn and self.batch_stats != "local":
      raise UserError("FedBN keeps the statistics on the client; set batch_stats=local with it.")
    if self.fedbn and self.client_momentum == "global":
      raise UserError(
        "FedBN keeps norm parameters on the client, so their momentum cannot be averaged; use "
        "client_momentum=local or reset."
      )


class ServerState(NamedTuple):
  """What the server holds.

  Attributes:
    variables: the global model.
    opt_state: the server optimizer's state.
    momentum: the clients' averaged optimizer state under ``client_momentum='global'``, else ().
  """

  variables: Variables
  opt_state: PyTree
  momentum: PyTree


class ClientState(NamedTuple):
  """What a client holds between rounds; each is empty unless an option asks for it.

  Attributes:
    momentum: its optimizer's state.
    params: its own norm parameters, by path.
    batch_stats: its own running statistics.
  """

  momentum: PyTree = ()
  params: PyTree = ()
  batch_stats: PyTree = ()


def make_server_optimizer(config: FedAvgConfig) -> optax.GradientTransformation:
  """The server's optimizer; Adam, Yogi and Adagrad have tau = 1e-3 (Reddi et al. 2021).

  Adagrad's stands under the root, as tau^2.
  """
  rate = config.server_rate
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


def fedavg(
  model: nn.Module,
  config: FedAvgConfig,
  nodes: Nodes,
  transform: Transform,
  image_shape: tuple[int, int, int],
) -> Algorithm:
  """Federated averaging (McMahan et al. 2017; paper 004, Alg. 2).

  A round, for the clients k of the cohort: take the server's w, run local steps from it to w_k, and

    w <- w + server_optimizer(sum_k p_k (w_k - w)),  p_k = weight_k / sum of weights.

  Args:
    model: the model; its norm's source decides whether statistics move (``frozen`` does not).
    config: the options.
    nodes: how the cohort is mapped.
    transform: makes training images of stored ones.
    image_shape: (H, W, C).

  Raises:
    UserError: options that the model's norm cannot honour.
  """
  spec = model.norm
  norms = models.norm_modules(model, image_shape)
  local_stats = spec.has_running_statistics and config.batch_stats == "local"
  if config.fedbn and not spec.has_running_statistics:
    raise UserError(f"FedBN keeps batch normalization on the client; norm {spec.name!r} is none.")
  check_policy(config.batch_stats, spec)
  model = model.clone(norm=spec.bind(nodes.axis_names))
  update = make_client_update(model, config.local, model.norm.axis_names)
  client_optimizer = optimizer(config.local)
  server_optimizer = make_server_optimizer(config)
  stats_policy = combiner(config.batch_stats if spec.updates_running_statistics else "frozen")

  def personal_paths(params: PyTree) -> frozenset[str]:
    if not config.fedbn:
      return frozenset()
    return frozenset(p for p in trees.flatten(params) if p.rpartition("/")[0] in norms)

  def shared_params(params: PyTree) -> dict[str, Array]:
    flat, personal = trees.flatten(params), personal_paths(params)
    return {path: leaf for path, leaf in flat.items() if path not in personal}

  def init(variables: Variables) -> ServerState:
    opt_state = server_optimizer.init(shared_params(variables["params"]))
    momentum = ()
    if config.client_momentum == "global":
      momentum = client_optimizer.init(variables["params"])
    return ServerState(variables, opt_state, momentum)

  def init_client(server: ServerState) -> ClientState:
    params = server.variables["params"]
    return ClientState(
      client_optimizer.init(params) if config.client_momentum == "local" else (),
      trees.pick(params, personal_paths(params)) if config.fedbn else (),
      server.variables["batch_stats"] if local_stats else (),
    )

  def client_variables(server: ServerState, client: ClientState) -> Variables:
    params = trees.put(server.variables["params"], client.params) if config.fedbn else None
    return {
      **server.variables,
      **({"params": params} if config.fedbn else {}),
      **({"batch_stats": client.batch_stats} if local_stats else {}),
    }

  def local_steps(sizes: Array) -> Array:
    if config.local_epochs is None:
      return 0 * sizes + (config.local_steps or 1)
    return config.local_epochs * steps_per_epoch(sizes, config.local.batch_size)

  def node(shared, item):
    (server, context), (row, state) = shared, item
    variables = client_variables(server, state)
    momentum = {
      "local": lambda: state.momentum,
      "global": lambda: server.momentum,
      "reset": lambda: client_optimizer.init(variables["params"]),
    }[config.client_momentum]()
    here = row >= 0  # what fills up the devices takes no step and counts nothing
    steps = jnp.where(here, local_steps(context.data.sizes[row]), 0)
    dropout_key = stream(context.key, Stream.DROPOUT)
    out = update(
      variables,
      momentum,
      lambda step: draw(context.data, row, step, config.local.batch_size, transform, context.key),
      context.round * steps,
      steps,
      context.rate,
      jax.random.fold_in(jax.random.fold_in(dropout_key, context.round), context.data.clients[row]),
    )
    weight = {
      "examples": context.data.sizes[row],
      "processed": out.metrics.examples,
      "uniform": jnp.int32(1),
    }[config.weighting].astype(jnp.float32)
    weight = jnp.where(here, weight, 0.0)
    change = trees.subtract(
      shared_params(out.variables["params"]), shared_params(server.variables["params"])
    )
    stats = out.variables.get("batch_stats", {})
    sums = {
      "weight": weight,
      "change": trees.scale(change, weight),
      "momentum": trees.scale(out.opt_state, weight) if config.client_momentum == "global" else (),
      "stats": stats_policy.to_sums(stats, weight, server.variables.get("batch_stats", {})),
      "metrics": out.metrics,
    }
    kept = ClientState(
      out.opt_state if config.client_momentum == "local" else (),
      trees.pick(out.variables["params"], state.params) if config.fedbn else (),
      stats if local_stats else (),
    )
    return sums, kept

  def round_(server: ServerState, clients: ClientState, cohort: Array, context: Context):
    sums, clients = nodes.map_reduce(node, (server, context), (cohort, clients), (False, HELD))
    mean = 1 / sums["weight"]
    params = shared_params(server.variables["params"])
    negated = trees.scale(sums["change"], -mean)
    updates, opt_state = server_optimizer.update(negated, server.opt_state, params)
    # A server optimizer with a memory would go on moving what clients no longer move.
    frozen = jax.tree.map(jnp.zeros_like, trees.pick(updates, config.local.frozen_paths))
    updates = {**updates, **frozen}
    params = trees.put(server.variables["params"], optax.apply_updates(params, updates))
    variables = {**server.variables, "params": params}
    if "batch_stats" in variables:
      variables["batch_stats"] = stats_policy.from_sums(
        sums["stats"], sums["weight"], variables["batch_stats"]
      )
    server = ServerState(variables, opt_state, trees.scale(sums["momentum"], mean))
    return server, clients, sums["metrics"]

  shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0), image_shape))
  return Algorithm(
    init=init,
    init_client=init_client,
    round=round_,
    variables=lambda server: server.variables,
    client_variables=client_variables if local_stats else None,
    local_steps=local_steps,
    cost=round_cost(
      model,
      image_shape,
      config.batch_stats,
      config.local.frozen_paths,
      personal_paths(shapes["params"]),
      config.client_momentum == "global",
    ),
  )
