"""The functions of split learning: what parties compute in a step, and what happens between turns.

One compiled program, parties that exchange messages, and networked runs all use these functions.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms.batch_statistics import check_policy, combiner
from fedjax_norm.algorithms.costs.ledger import Cost
from fedjax_norm.algorithms.round_algorithm import RoundContext
from fedjax_norm.data.shuffle import permute
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import Metrics
from fedjax_norm.models.stages import Staged
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.split import costs
from fedjax_norm.split.autoencoder import Autoencoder, make_autoencoder
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.parties import (
  Part,
  Party,
  check_auxiliary_losses,
  loss_gradient,
  make_parties,
)
from fedjax_norm.split.plan import ALICE, Plan, describe, divide, join, make_plan, segment_shapes
from fedjax_norm.split.splitfed_average import from_sums, to_sums
from fedjax_norm.split.state import ClientState, ServerState, hand_over_state, stats_of, with_stats
from fedjax_norm.split.tally import Tally, make_step_tally, pass_cost
from fedjax_norm.typing import Array, Batch, PyTree, Variables


class Rules(NamedTuple):
  """The pure functions of split learning. A client's turn is its consecutive steps in a round.

  Attributes:
    plan: the segments of the model and the party of each segment.
    parties: training functions of the segments.
    autoencoder: functions of the clients' autoencoder, or None.
    loss_gradient: (outputs, batch) -> (gradient of the mean loss, sums of the metrics).
    init: variables of the model -> initial :class:`ServerState`.
    init_client: initial server state -> initial :class:`ClientState`.
    begin: (server state, client state) -> the parts, training states of all segments and of the
      decoder, at the start of the client's turn.
    end: (server state, client state, client's row in the data, context, parts after the turn, tally
      of the turn, autoencoder loss) -> (server state, client state, values to sum over the round).
    close: (server state, sums over the round) -> the server state at the end of the round.
    steps: number of examples of a client -> number of steps in its turn.
    order: (context, number of turns m) -> the positions in the cohort in the order of turns, [m].
    step_tally: (examples, examples that cross the cut) -> :class:`Tally` of one step.
    client_variables: (server state, client state) -> the client's model; None if all clients use
      the global model.
    columns: server state -> the columns that split learning adds to a row of metrics.
    client_rows: states of all clients -> the rows of ``clients.csv``.
    summary: () -> name/value pairs printed at the start of a run: the stages of each party.
    pass_cost: bytes of one pass over a client's data that recomputes running statistics.
    flops: () -> training FLOPs of each party per example.
  """

  plan: Plan
  parties: tuple[Party, ...]
  autoencoder: Autoencoder | None
  loss_gradient: Callable[[PyTree, Batch], tuple[PyTree, Metrics]]
  init: Callable[[Variables], ServerState]
  init_client: Callable[[ServerState], ClientState]
  begin: Callable[[ServerState, ClientState], tuple[Part, ...]]
  end: Callable[..., tuple[ServerState, ClientState, PyTree]]
  close: Callable[[ServerState, PyTree], ServerState]
  steps: Callable[[Array], Array]
  order: Callable[[RoundContext, int], Array]
  step_tally: Callable[[Array, Array], Tally]
  client_variables: Callable[[ServerState, ClientState], Variables] | None
  columns: Callable[[ServerState], dict[str, float]]
  client_rows: Callable[[ClientState], list[dict[str, float]]]
  summary: Callable[[], list[tuple[str, str]]]
  pass_cost: Cost
  flops: Callable[[], costs.PartyFlops]


def make_rules(
  model: nn.Module,
  config: SplitConfig,
  image: jax.ShapeDtypeStruct,
  label: jax.ShapeDtypeStruct,
  seed: int = 0,
) -> Rules:
  """Returns the functions of split learning for a model.

  Args:
    model: the whole model; its norm must be bound to no axis.
    config: the options of split learning.
    image: (H, W, C) and the dtype that the model computes in.
    label: shape of the label of one example.
    seed: seed of the initial weights of the autoencoder's decoder.

  Raises:
    UserError: the model or its norm does not support the options.
  """
  if not isinstance(model, Staged):
    raise UserError("the model is not a sequence of stages, so it cannot be cut; choose another.")
  spec, policy = model.norm, config.statistics_policy(model.norm)
  if spec.across_clients:
    raise UserError(
      f"norm {spec.name!r} merges the batches of all clients, but in split learning the server "
      "processes the batch of one client at a time; choose bn or another norm."
    )
  check_policy(policy, spec)
  if spec.weight_norm and config.handed_over == "updates":
    raise UserError(
      "handed_over=updates needs initial weights that depend only on the seed, but those of weight "
      "normalization also depend on examples; use handed_over=weights or another norm."
    )
  plan = make_plan(model, image.shape, config.cut, config.tail, config.relay_stages)
  shapes, outputs = segment_shapes(model, plan, image)
  check_auxiliary_losses(model, plan, image, outputs, labelled=config.autoencoder is None)
  parties = make_parties(model, plan, config, shapes)
  autoencoder = None
  if config.autoencoder is not None:
    if len(jax.tree.leaves(outputs[0])) > 1:
      raise UserError(
        "the autoencoder can decode only one tensor, but several cross this cut; drop autoencoder "
        "or cut the model elsewhere."
      )
    autoencoder = make_autoencoder(outputs[0], image.shape, config, config.autoencoder)
  batch_size = config.batch_size
  # In all tuples of parts the decoder follows the segments.
  owners = [segment.owner for segment in plan.segments] + [ALICE] * bool(autoencoder)
  client_indices = tuple(index for index, owner in enumerate(owners) if owner == ALICE)
  averaged = tuple(config.averaged(owner) for owner in owners)
  local_stats = policy == "local" and spec.has_running_statistics
  shared_stats = "mean" if policy == "local" else policy
  shared = combiner(shared_stats if spec.updates_running_statistics else "frozen")
  policies = [combiner("local") if local_stats and o == ALICE else shared for o in owners]
  average_momentum, local_momentum = (config.client_momentum == m for m in ("global", "local"))

  def make_parts(variables: Sequence[Variables], decoder: Variables | None) -> list[Part]:
    parts = [party.init(part) for party, part in zip(parties, variables, strict=True)]
    if autoencoder:
      key = stream(jax.random.key(seed), Stream.DECODER)
      parts.append(autoencoder.make_part(decoder or autoencoder.init(key)))
    return parts

  def parts_of(state: ServerState) -> list[Part]:
    return make_parts(divide(state.variables, shapes), state.decoder)

  step_tally = make_step_tally(plan, outputs, label, batch_size, trips=config.in_turns)
  part_shapes = jax.eval_shape(lambda variables: make_parts(variables, None), shapes)
  size = sum(tree_leaves.num_bytes(hand_over_state(part_shapes[i], config)) for i in client_indices)

  def init(variables: Variables) -> ServerState:
    parts = make_parts(divide(variables, shapes), None)
    return ServerState(
      variables,
      global_opt_states(parts),
      parts[-1].variables if autoencoder else (),
      starter=jnp.int32(-1),
      last=jnp.int32(-1),
      turns=jnp.int32(0),
      tally=Tally.zeros(),
      reconstruction=jnp.float32(0),
    )

  def init_client(state: ServerState) -> ClientState:
    parts = parts_of(state)
    opt_states = tuple(
      part.opt_state if local_momentum and mean else ()
      for part, mean in zip(parts, averaged, strict=True)
    )
    stats, never = local_statistics(parts), jnp.int32(-1)
    return ClientState(stats, opt_states, jnp.int32(0), never, never, Tally.zeros())

  def begin(state: ServerState, client: ClientState) -> tuple[Part, ...]:
    parts = parts_of(state)
    for index, mean in enumerate(averaged):
      if not mean or average_momentum:
        parts[index] = parts[index]._replace(opt_state=state.opt_states[index])
      elif local_momentum:
        parts[index] = parts[index]._replace(opt_state=client.opt_states[index])
    if local_stats:
      for index, stats in zip(client_indices, client.batch_stats, strict=True):
        parts[index] = with_stats(parts[index], stats)
    return tuple(parts)

  def end(
    state: ServerState,
    client: ClientState,
    row: Array,
    context: RoundContext,
    parts: Sequence[Part],
    tally: Tally,
    reconstruction: Array,
  ) -> tuple[ServerState, ClientState, PyTree]:
    before = parts_of(state)
    weight = context.data.sizes[row].astype(jnp.float32)
    client_id = context.data.clients[row]
    of_client, of_all = costs.count_hand_over(config, size, state, client, client_id)
    after = [old if mean else new for old, new, mean in zip(before, parts, averaged, strict=True)]
    sums = {
      "weight": weight,
      "tally": tally.add(of_all),
      "reconstruction": weight * reconstruction,
      "averaged": [
        to_sums(old, new, weight, policy, average_momentum) if mean else ()
        for old, new, mean, policy in zip(before, parts, averaged, policies, strict=True)
      ],
    }
    opt_states = tuple(
      part.opt_state if stored != () else ()
      for part, stored in zip(parts, client.opt_states, strict=True)
    )
    new_client = ClientState(
      local_statistics(parts),
      opt_states,
      turns=client.turns + 1,
      first=jnp.where(client.turns == 0, state.turns, client.first),
      latest=state.turns,
      tally=client.tally.add(tally.add(of_client)),
    )
    if local_stats:  # the global model keeps its initial statistics
      for index in client_indices:
        after[index] = with_stats(after[index], stats_of(before[index]))
    state = with_parts(state, after)
    if config.in_turns:
      starter = jnp.where(state.turns == 0, client_id, state.starter)
      state = state._replace(starter=starter, last=client_id, turns=state.turns + 1)
    return state, new_client, sums

  def local_statistics(parts: Sequence[Part]) -> tuple[PyTree, ...]:
    return tuple(stats_of(parts[index]) if local_stats else () for index in client_indices)

  def global_opt_states(parts: Sequence[Part]) -> tuple[PyTree, ...]:
    return tuple(
      () if mean and not average_momentum else part.opt_state
      for part, mean in zip(parts, averaged, strict=True)
    )

  def joined(parts: Sequence[Part]) -> Variables:
    return join([part.variables for part in parts[: len(plan.segments)]])

  def with_parts(state: ServerState, parts: Sequence[Part]) -> ServerState:
    decoder = parts[-1].variables if autoencoder else ()
    opt_states = global_opt_states(parts)
    return state._replace(variables=joined(parts), opt_states=opt_states, decoder=decoder)

  def close(state: ServerState, sums: PyTree) -> ServerState:
    parts = parts_of(state)
    for index, (mean, policy) in enumerate(zip(averaged, policies, strict=True)):
      parts[index] = parts[index]._replace(opt_state=state.opt_states[index])
      if mean:
        parts[index] = from_sums(parts[index], sums["averaged"][index], sums["weight"], policy)
    return with_parts(state, parts)._replace(
      tally=state.tally.add(sums["tally"]), reconstruction=sums["reconstruction"] / sums["weight"]
    )

  def order(context: RoundContext, turns: int) -> Array:
    positions = jnp.arange(turns, dtype=jnp.int32)
    if config.turn_order != "shuffled":
      return positions
    key = jax.random.fold_in(stream(context.key, Stream.TURN), context.round)
    return permute(key, positions, turns)

  def client_variables(state: ServerState, client: ClientState) -> Variables:
    return joined(begin(state, client))

  flops = functools.cache(lambda: costs.party_flops(model, plan, image, batch_size, autoencoder))

  return Rules(
    plan,
    parties,
    autoencoder,
    functools.partial(loss_gradient, config),
    init,
    init_client,
    begin,
    end,
    close,
    config.steps,
    order,
    step_tally,
    client_variables if local_stats else None,
    lambda state: costs.state_columns(config, flops(), state),
    lambda clients: costs.client_rows(config, size, flops(), clients),
    lambda: describe(model, plan, shapes, outputs),
    pass_cost(plan, shapes, outputs),
    flops,
  )
