"""Turns a client function and a server function into an algorithm (see ``contract.py``)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_norm import models, tree_leaves
from fedjax_norm.algorithms.batch_statistics import check_policy, combiner
from fedjax_norm.algorithms.contract import Averaging, ClientData, Context, Method, Setup, Update
from fedjax_norm.algorithms.costs import ledger
from fedjax_norm.algorithms.costs.ledger import Cost
from fedjax_norm.algorithms.round_algorithm import SHARDED, Algorithm, RoundContext, Views
from fedjax_norm.client_mapping import ClientFn
from fedjax_norm.data.federated import FederatedData, draw
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import (
  ClientOutput,
  LocalConfig,
  Metrics,
  make_client_update,
  make_gradient,
  make_loss,
  optimizer,
)
from fedjax_norm.ops.batching import default_platform
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.typing import Array, Batch, Key, PyTree, Variables


class ClientState(NamedTuple):
  """State that a client stores between rounds; unused parts are empty.

  Attributes:
    own: the client state of the algorithm (see ``contract.Averaging``); the name in checkpoints.
    momentum: state of the client's optimizer, if ``client_momentum`` is local.
    params: norm parameters that stay on the client (FedBN): {path: array}.
    batch_stats: running statistics that stay on the client (``batch_stats`` is local, or FedBN).
  """

  own: PyTree = ()
  momentum: PyTree = ()
  params: PyTree = ()
  batch_stats: PyTree = ()


def averaging(method: Averaging, config: LocalConfig, setup: Setup) -> Algorithm:
  """Makes a runnable algorithm of a client function and a server function.

  A round, for the clients k of the cohort with weights p_k and client states s_k:

    upload_k, s_k <- client(downlink(server), s_k, examples_k)
    server        <- server(server, sum_k p_k upload_k / sum_k p_k)

  Parameters and statistics that stay on a client (FedBN, ``batch_stats=local``) replace the
  downloaded ones before ``client`` runs, and are not sent with the upload. For parameters that are
  not sent (of FedBN, or frozen), ``train`` ignores ``correction``, and ``server`` gets the mean 0.

  If the uploads are gradients (``method.uploads_gradient``), an accelerator gets their sum in one
  backward pass, as the gradient of sum_k p_k loss_k. Parts of a batch (``accumulate``) would all
  be stored for it, so that they have a backward pass each, as on a CPU.

  Raises UserError if the options do not fit the model's norm.
  """
  spec, policy = setup.model.norm, config.statistics_policy(setup.model.norm)
  if config.keeps_norms and not spec.has_running_statistics:
    raise UserError(
      f"--fedbn needs batch normalization, but the norm is {spec.name!r}; drop --fedbn or give "
      "--norm=bn."
    )
  check_policy(policy, spec)
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
  batch_gradient = make_gradient(model, config, model.norm.axis_names)
  batch_loss = make_loss(model, config, shared_kernels=True)
  one_backward = method.uploads_gradient and config.accumulate == 1 and default_platform() != "cpu"

  def init_client(server: Any) -> ClientState:
    params = server.variables["params"]
    return ClientState(
      method.init_client(server),
      client_optimizer.init(params) if config.keeps_momentum else (),
      tree_leaves.pick(params, personal),
      server.variables["batch_stats"] if keeps_stats else (),
    )

  def client_variables(server: Any, client_state: ClientState) -> Variables:
    params = tree_leaves.put(server.variables["params"], client_state.params)
    stats = {"batch_stats": client_state.batch_stats} if keeps_stats else {}
    return {**server.variables, "params": params, **stats}

  def round_context(context: RoundContext, participants: Array, **functions: Any) -> Context:
    return Context(
      setup.num_clients, participants, context.round, context.rate, context.theta, **functions
    )

  def training_functions(
    client_state: ClientState, row: Array, context: RoundContext
  ) -> dict[str, Any]:
    """Returns the client's ``train`` and ``gradient``; padding (row -1) takes no step."""
    present = row >= 0
    key = jax.random.fold_in(stream(context.key, Stream.DROPOUT), context.round)
    key = jax.random.fold_in(key, context.data.clients[row])

    def train(
      variables: Variables,
      examples: ClientData,
      steps: Array,
      optimizer_state: PyTree = None,
      correction: PyTree = None,
      extra_loss: Any = None,
    ) -> ClientOutput:
      if optimizer_state is None:
        new_state = client_optimizer.init(variables["params"])
        optimizer_state = client_state.momentum if config.keeps_momentum else new_state
      if correction is not None:
        zeros = optax.tree.zeros_like(tree_leaves.pick(correction, unsent))
        correction = tree_leaves.put(correction, zeros)
      single = not isinstance(steps, jax.Array) and steps == 1
      steps = jnp.where(present, steps, 0)
      start = (variables, optimizer_state, examples.batch, context.round * steps)
      return update(*start, steps, context.rate, key, correction, extra_loss, single)

    def gradient(
      variables: Variables,
      examples: ClientData,
      batch_size: int | None = None,
      take: Array | None = None,
    ) -> tuple[PyTree, ClientOutput]:
      batch = examples.batch(context.round, batch_size, take)
      # Only in lock-step: a NaN of an empty batch would spread to all clients by one backward pass.
      if model.norm.axis_names:
        batch = batch._replace(mask=batch.mask * present)
      inputs = variables["params"], variables.get("batch_stats", {}), batch, context.round, key
      if one_backward:  # a loss, which ``with_one_backward`` differentiates
        grads, (stats, metrics) = batch_loss(*inputs, batch.mask.sum())
      else:
        grads, stats, metrics = batch_gradient(*inputs)
      after = {**variables, **({"batch_stats": stats} if stats else {})}
      return grads, ClientOutput(after, client_state.momentum, metrics)

    return {"train": train, "gradient": gradient}

  def run_client(
    download: Any,
    client_state: ClientState,
    row: Array,
    context: RoundContext,
    participants: Array,
    functions: dict[str, Any],
  ) -> tuple[Update, PyTree]:
    """Returns (the client's update, the part of its upload that is sent)."""
    data = context.data

    def batch(step: Array, batch_size: int | None = None, take: Array | None = None) -> Batch:
      size = batch_size or config.batch_size
      return draw(data, row, step, size, setup.transform, context.key, take)

    result = method.client(
      download._replace(variables=client_variables(download, client_state)),
      client_state.own,
      ClientData(data.clients[row], data.sizes[row], batch),
      round_context(context, participants, **functions),
    )
    return result, ledger.without(result.upload, shapes["params"], unsent)

  def client_round(shared: Any, item: Any) -> tuple[PyTree, ClientState]:
    (download, context, participants), (row, client_state) = shared, item
    functions = training_functions(client_state, row, context)
    result, upload = run_client(download, client_state, row, context, participants, functions)
    weight, one = jax.lax.stop_gradient(jnp.float32(result.weight)), jnp.float32(1)
    variables = result.trained.variables
    stats = variables.get("batch_stats", {})
    sums = {
      "weight": weight,
      "count": one,
      "upload": _scaled(upload, weight, one, method.equal),
      "stats": stats_policy.to_sums(stats, weight, download.variables.get("batch_stats", {})),
      "metrics": result.trained.metrics,
    }
    # Not multiplied by 0: what padding computes from no examples may be NaN.
    sums = optax.tree.where(row >= 0, sums, optax.tree.zeros_like(sums))
    return sums, ClientState(
      result.client_state,
      result.trained.opt_state if config.keeps_momentum else (),
      tree_leaves.pick(variables["params"], personal),
      stats if keeps_stats else (),
    )

  def with_one_backward(run: ClientFn) -> ClientFn:
    """Replaces the sum of weighted losses, which stands for ``upload``, by its gradient."""

    def with_gradient(shared: Any, items: Any) -> tuple[PyTree, PyTree]:
      download, *rest = shared

      def loss(params: PyTree) -> tuple[Array, tuple[PyTree, PyTree]]:
        variables = {**download.variables, "params": params}
        sums, rows = run((download._replace(variables=variables), *rest), items)
        return sums["upload"], (sums, rows)

      gradient, (sums, rows) = jax.grad(loss, has_aux=True)(download.variables["params"])
      return {**sums, "upload": ledger.without(gradient, shapes["params"], unsent)}, rows

    return with_gradient

  def round_(
    server: Any, clients: ClientState, cohort: Array, context: RoundContext
  ) -> tuple[Any, ClientState, Metrics]:
    participants = (cohort >= 0).sum().astype(jnp.float32)
    shared = (method.downlink(server), context, participants)
    sums, clients = setup.mapping.map_reduce(
      client_round,
      shared,
      (cohort, clients),
      (False, SHARDED, False),
      with_one_backward if one_backward else lambda run: run,
    )
    before = server.variables
    mean = _scaled(sums["upload"], 1 / sums["weight"], 1 / sums["count"], method.equal)
    mean = ledger.filled(mean, before["params"], unsent)
    server = method.server(server, mean, round_context(context, participants))
    _check_state(server)
    # A server optimizer with momentum would still move frozen parameters.
    frozen = tree_leaves.pick(before["params"], config.frozen_paths)
    variables = {**before, "params": tree_leaves.put(server.variables["params"], frozen)}
    variables = stats_policy.combine(variables, sums["stats"], sums["weight"])
    return server._replace(variables=variables), clients, sums["metrics"]

  def round_cost() -> Cost:
    """Returns a client's cost per round, from the shapes of what it receives and sends."""

    def train(variables: Variables, *arguments: Any, **options: Any) -> ClientOutput:
      return ClientOutput(variables, client_optimizer.init(variables["params"]), Metrics.zeros())

    def gradient(
      variables: Variables, *arguments: Any, **options: Any
    ) -> tuple[PyTree, ClientOutput]:
      return variables["params"], ClientOutput(variables, (), Metrics.zeros())

    def sent_trees(server: Any, data: FederatedData, key: Key) -> tuple[PyTree, PyTree]:
      context = RoundContext(data, jnp.int32(0), jnp.float32(0), key, jnp.float32(0))
      functions = {"train": train, "gradient": gradient}
      download = method.downlink(server)
      _check_state(download)
      down = download._replace(variables={"params": download.variables["params"]})
      one = jnp.float32(1)
      _, up = run_client(download, init_client(server), jnp.int32(0), context, one, functions)
      return up, ledger.without(down, shapes["params"], personal)

    server = jax.eval_shape(method.init, shapes)
    _check_state(server)
    data = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), setup.data)
    up, down = jax.eval_shape(sent_trees, server, data, jax.random.key(0))
    return ledger.exchange_cost(setup.model, setup.image_shape, policy, up, down)

  return Algorithm(
    init=method.init,
    init_client=init_client,
    round=round_,
    local_steps=config.steps,
    cost=round_cost(),
    views=Views(client=client_variables if keeps_stats or config.keeps_norms else None),
  )


def _check_state(state: Any) -> None:
  """Raises UserError if a state of a user-defined algorithm is no NamedTuple with ``variables``."""
  if "variables" not in getattr(state, "_fields", ()):
    raise UserError(
      "the server state (results of init, server and downlink) must be a NamedTuple with a field "
      f"variables, not {type(state).__name__}; see fedjax_norm/algorithms/contract.py."
    )


def _scaled(upload: PyTree, weight: Array, count: Array, equal: tuple[str, ...]) -> PyTree:
  """Multiplies an upload by ``weight``, but its values at the keys ``equal`` by ``count``."""
  if not equal:
    return optax.tree.scale(weight, upload)
  if not isinstance(upload, dict) or not set(equal) <= upload.keys():
    raise UserError(
      f"an upload must be a dict with the keys {', '.join(equal)}, which Averaging.equal names."
    )
  return {
    key: optax.tree.scale(count if key in equal else weight, part) for key, part in upload.items()
  }


def build(method: Method, config: Any, setup: Setup) -> Algorithm:
  """Returns the method's algorithm; raises UserError for options that do not fit together."""
  built = method.build(config, setup)
  return averaging(built, config, setup) if isinstance(built, Averaging) else built
