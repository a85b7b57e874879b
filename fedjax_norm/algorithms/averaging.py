"""Everything that algorithms which average their clients' uploads have in common."""

import dataclasses
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax

from fedjax_norm import models, tree_leaves
from fedjax_norm.algorithms import ledger
from fedjax_norm.algorithms.batch_statistics import check_policy, combiner
from fedjax_norm.algorithms.contract import (
  SHARDED,
  Algorithm,
  Averaging,
  ClientData,
  Context,
  Method,
  RoundContext,
  Setup,
  Update,
  Views,
)
from fedjax_norm.algorithms.ledger import Cost
from fedjax_norm.data.federated import FederatedData, draw
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import (
  ClientOutput,
  LocalConfig,
  LocalStepsConfig,
  Metrics,
  make_client_update,
  make_gradient,
  optimizer,
)
from fedjax_norm.norm import NormSpec
from fedjax_norm.options import Options, option
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, Key, PyTree, Variables

WEIGHTINGS = ("examples", "processed", "uniform")


@dataclasses.dataclass(frozen=True)
class AveragingConfig(LocalStepsConfig):
  """What algorithms are told whose clients take local steps between two averages."""

  group = "algorithm"

  weighting: str = option(
    "examples",
    "Weight of a client in the average: its number of examples, the examples that it processed in "
    "the round, or the same for all (uniform).",
    choices=WEIGHTINGS,
  )
  client_momentum: str | None = option(
    None,
    "What becomes of a client's momentum after a round: it is reset to zero or stays on the client "
    "(local). The default is local if all clients take part in each round, else reset.",
    choices=("reset", "local"),
    needs="momentum",
  )
  fedbn: bool = option(
    False, "FedBN: the parameters and statistics of batch normalization stay on the client."
  )

  def check(self):
    """Refuses options that contradict each other."""
    if self.fedbn and self.batch_stats not in (None, "local"):
      raise UserError(
        f"--fedbn keeps the statistics on the client, which --batch_stats={self.batch_stats} "
        "denies; drop one of them."
      )

  def statistics_policy(self, spec: NormSpec) -> str:
    """``batch_stats``, or its default: FedBN keeps the statistics on the client."""
    return self.batch_stats or ("local" if self.fedbn else "mean")

  @property
  def keeps_momentum(self) -> bool:
    """Whether a client's optimizer state stays on it between rounds."""
    return self.client_momentum == "local"

  @property
  def keeps_norms(self) -> bool:
    """Whether the norms' parameters stay on the client (FedBN)."""
    return self.fedbn

  def fill_defaults(self, spec: NormSpec, all_clients: bool) -> Self:
    """The options in force."""
    config = super().fill_defaults(spec, all_clients)
    if self.client_momentum is None and self.momentum:
      return dataclasses.replace(config, client_momentum="local" if all_clients else "reset")
    return config

  def weight(self, examples: ClientData, trained: ClientOutput) -> Array:
    """The weight of a client in the average."""
    match self.weighting:
      case "examples":
        return examples.size
      case "processed":
        return trained.metrics.examples
      case _:
        return jnp.int32(1)


@dataclasses.dataclass(frozen=True)
class ServerRateConfig(Options):
  """The option of algorithms whose server scales the mean change."""

  group = "algorithm"

  server_lr: float = option(1.0, "The server's learning rate.", above=0)


class Client(NamedTuple):
  """What a client keeps between rounds; each part is empty unless something keeps it.

  Attributes:
    own: the algorithm's own part.
    momentum: its optimizer's state.
    params: its own norm parameters, by path (FedBN).
    batch_stats: its own running statistics.
  """

  own: PyTree = ()
  momentum: PyTree = ()
  params: PyTree = ()
  batch_stats: PyTree = ()


def averaging(method: Averaging, config: LocalConfig, setup: Setup) -> Algorithm:
  """The algorithm of a client function and a server function.

  A round, for the clients k of the cohort, each with its weight p_k:

    upload_k <- client(downlink(server), own_k, examples_k)
    server   <- server(server, sum_k p_k upload_k / sum_k p_k)

  What stays with a client (its momentum, its own statistics, FedBN's parameters) is put into the
  model before ``client`` and taken out of what crosses. A client trains a parameter that does not
  cross without correction, and the server sees a mean of 0 for it.

  Args:
    method: the two functions.
    config: how clients train.
    setup: what it is built for.

  Raises:
    UserError: options that the model's norm cannot honour.
  """
  spec, policy = setup.model.norm, config.statistics_policy(setup.model.norm)
  if config.keeps_norms and not spec.has_running_statistics:
    raise UserError(f"FedBN keeps batch normalization on the client; norm {spec.name!r} is none.")
  check_policy(policy, spec)  # FedBN's own is local
  keeps_stats = spec.has_running_statistics and policy == "local"
  model, client_optimizer = setup.bound_model, optimizer(config)
  stats_policy = combiner(policy if spec.updates_running_statistics else "frozen")
  shapes = ledger.model_shapes(setup.model, setup.image_shape)
  norms = models.norm_modules(setup.model, setup.image_shape) if config.keeps_norms else {}
  personal = frozenset(
    path for path in tree_leaves.flatten(shapes["params"]) if path.rpartition("/")[0] in norms
  )
  unsent = personal | config.frozen_paths
  update = make_client_update(model, config, model.norm.axis_names)
  gradient = make_gradient(model, config, model.norm.axis_names)

  def init_client(server: Any) -> Client:
    params = server.variables["params"]
    return Client(
      method.init_client(server),
      client_optimizer.init(params) if config.keeps_momentum else (),
      tree_leaves.pick(params, personal),
      server.variables["batch_stats"] if keeps_stats else (),
    )

  def client_variables(server: Any, kept: Client) -> Variables:
    params = tree_leaves.put(server.variables["params"], kept.params)
    stats = {"batch_stats": kept.batch_stats} if keeps_stats else {}
    return {**server.variables, "params": params, **stats}

  def in_round(context: RoundContext, participants: Array, **functions) -> Context:
    return Context(
      setup.num_clients, participants, context.round, context.rate, context.theta, **functions
    )

  def trainers(kept: Client, row: Array, context: RoundContext) -> dict[str, Any]:
    """The ``train`` and ``gradient`` of a client; a row of -1 takes no step and sees no example."""
    here = row >= 0
    key = jax.random.fold_in(stream(context.key, Stream.DROPOUT), context.round)
    key = jax.random.fold_in(key, context.data.clients[row])

    def train(
      variables, examples, steps, optimizer_state=None, correction=None, extra_loss=None
    ) -> ClientOutput:
      if optimizer_state is None:
        fresh = client_optimizer.init(variables["params"])
        optimizer_state = kept.momentum if config.keeps_momentum else fresh
      if correction is not None:
        sent = ledger.without(correction, correction, unsent)
        correction = ledger.filled(sent, correction, unsent)
      steps = jnp.where(here, steps, 0)
      first = context.round * steps
      return update(
        variables,
        optimizer_state,
        examples.batch,
        first,
        steps,
        context.rate,
        key,
        correction,
        extra_loss,
      )

    def of_batch(variables, examples, places=None, take=None) -> tuple[PyTree, ClientOutput]:
      batch = examples.batch(context.round, places, take)
      batch = batch._replace(mask=batch.mask * here)
      stats = variables.get("batch_stats", {})
      grads, stats, metrics = gradient(variables["params"], stats, batch, context.round, key)
      after = {**variables, **({"batch_stats": stats} if stats else {})}
      return grads, ClientOutput(after, kept.momentum, metrics)

    return {"train": train, "gradient": of_batch}

  def work(
    received: Any, kept: Client, row: Array, context: RoundContext, participants: Array, functions
  ) -> tuple[Update, PyTree]:
    """(what a client makes of the round, what of its upload crosses)."""
    data = context.data

    def batch(step, places=None, take=None):
      places = places or config.batch_size
      return draw(data, row, step, places, setup.transform, context.key, take)

    result = method.client(
      received._replace(variables=client_variables(received, kept)),
      kept.own,
      ClientData(data.clients[row], data.sizes[row], batch),
      in_round(context, participants, **functions),
    )
    return result, ledger.without(result.upload, shapes["params"], unsent)

  def node(shared, item):
    (received, context, participants), (row, kept) = shared, item
    functions = trainers(kept, row, context)
    result, upload = work(received, kept, row, context, participants, functions)
    here = (row >= 0).astype(jnp.float32)
    weight = jnp.where(row >= 0, jnp.asarray(result.weight).astype(jnp.float32), 0.0)
    variables = result.trained.variables
    stats = variables.get("batch_stats", {})
    sums = {
      "weight": weight,
      "count": here,
      "upload": _scaled(upload, weight, here, method.equal),
      "stats": stats_policy.to_sums(stats, weight, received.variables.get("batch_stats", {})),
      "metrics": result.trained.metrics,
    }
    return sums, Client(
      result.own,
      result.trained.opt_state if config.keeps_momentum else (),
      tree_leaves.pick(variables["params"], personal),
      stats if keeps_stats else (),
    )

  def round_(server: Any, clients: Client, cohort: Array, context: RoundContext):
    participants = (cohort >= 0).sum().astype(jnp.float32)
    shared = (method.downlink(server), context, participants)
    sums, clients = setup.mapping.map_reduce(
      node, shared, (cohort, clients), (False, SHARDED, False)
    )
    before = server.variables
    mean = _scaled(sums["upload"], 1 / sums["weight"], 1 / sums["count"], method.equal)
    mean = ledger.filled(mean, before["params"], unsent)
    server = method.server(server, mean, in_round(context, participants))
    _check_state(server)
    # A server with a memory would go on moving what clients no longer move.
    still = tree_leaves.pick(before["params"], config.frozen_paths)
    variables = {**before, "params": tree_leaves.put(server.variables["params"], still)}
    if "batch_stats" in variables:
      variables["batch_stats"] = stats_policy.from_sums(
        sums["stats"], sums["weight"], before["batch_stats"]
      )
    return server._replace(variables=variables), clients, sums["metrics"]

  def cost() -> Cost:
    """Of the trees that a client receives and sends, whose shapes need no training."""

    def train(variables, examples, steps, optimizer_state=None, correction=None, extra_loss=None):
      state = client_optimizer.init(variables["params"])
      return ClientOutput(variables, state, Metrics.zeros())

    def of_batch(variables, examples, places=None, take=None):
      return variables["params"], ClientOutput(variables, (), Metrics.zeros())

    def crossing(server: Any, data: FederatedData, key: Key):
      context = RoundContext(data, jnp.int32(0), jnp.float32(0), key, jnp.float32(0))
      functions = {"train": train, "gradient": of_batch}
      received = method.downlink(server)
      _check_state(received)
      down = received._replace(variables={"params": received.variables["params"]})
      one = jnp.float32(1)
      _, up = work(received, init_client(server), jnp.int32(0), context, one, functions)
      return up, ledger.without(down, shapes["params"], personal)

    server = jax.eval_shape(method.init, shapes)
    _check_state(server)
    data = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), setup.data)
    up, down = jax.eval_shape(crossing, server, data, jax.random.key(0))
    return ledger.exchange_cost(setup.model, setup.image_shape, policy, up, down)

  keeps_model = keeps_stats or config.keeps_norms
  return Algorithm(
    init=method.init,
    init_client=init_client,
    round=round_,
    local_steps=config.steps,
    cost=cost(),
    views=Views(client=client_variables if keeps_model else None),
  )


def _check_state(state: Any) -> None:
  """Refuses what a user's own algorithm gives in the place of a server's state.

  Raises:
    UserError: it is no NamedTuple with variables.
  """
  if "variables" not in getattr(state, "_fields", ()):
    raise UserError(
      "the state of a server and what it sends down must be a NamedTuple with a field variables, "
      f"not a {type(state).__name__}; see fedjax_norm/algorithms/contract.py."
    )


def _scaled(upload: PyTree, weight: Array, count: Array, equal: tuple[str, ...]) -> PyTree:
  """The upload by a client's weight, or by 1 where clients count alike; and back."""
  if not equal:
    return optax.tree.scale(weight, upload)
  if not isinstance(upload, dict) or not set(equal) <= upload.keys():
    raise UserError(f"an upload must be a dict with the keys {', '.join(equal)} that equal names.")
  return {
    key: optax.tree.scale(count if key in equal else weight, part) for key, part in upload.items()
  }


def build(method: Method, config: Any, setup: Setup) -> Algorithm:
  """The algorithm of a method.

  Args:
    method: a row of the registry.
    config: its options.
    setup: what it is built for.

  Raises:
    UserError: options that do not fit together.
  """
  made = method.build(config, setup)
  return averaging(made, config, setup) if isinstance(made, Averaging) else made
