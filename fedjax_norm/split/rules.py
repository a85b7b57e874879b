"""Split learning apart from who runs it: what each party holds and what joins the turns."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm import trees
from fedjax_norm.algorithms.batch_statistics import check_policy, combiner
from fedjax_norm.algorithms.contract import RoundContext
from fedjax_norm.algorithms.ledger import Cost
from fedjax_norm.data.shuffle import permuted
from fedjax_norm.errors import UserError
from fedjax_norm.local import Metrics
from fedjax_norm.models.stages import Staged
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.split.autoencoder import Autoencoder, make_autoencoder
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.costs.counters import Tally, make_step_tally, pass_cost
from fedjax_norm.split.costs.flops import Effort, party_flops
from fedjax_norm.split.costs.ledger import client_rows, count_hand_over, state_columns
from fedjax_norm.split.parties import Part, Party, check_own_losses, loss_gradient, make_parties
from fedjax_norm.split.plan import ALICE, Plan, describe, divide, join, make_plan, segment_shapes
from fedjax_norm.split.splitfed_average import from_sums, to_sums
from fedjax_norm.split.state import ClientState, SplitState, stats_of, travelling, with_stats
from fedjax_norm.typing import Array, Batch, PyTree, Variables


class Rules(NamedTuple):
  """Split learning apart from who runs it: the parties' computations, and what joins turns.

  Attributes:
    plan: who holds what.
    parties: of the segments.
    autoencoder: Alice's, or None.
    loss_gradient: (outputs, batch) -> (G', metrics).
    init: variables -> :class:`SplitState`.
    init_client: the state -> :class:`ClientState`.
    begin: (state, client's state) -> the parts that its turn starts from.
    end: (state, client's state, row, context, parts, tally, reconstruction) -> (state, client's
      state, sums): what is carried on, and what is averaged after the round.
    close: (state, sums) -> state, after a round.
    steps: (client's size) -> the steps of its turn.
    order: (context, number of turns) -> who of the cohort comes when, [m].
    step_tally: (examples, exchanged) -> :class:`Tally` of one step.
    client_variables: (state, client's state) -> its model; None when all use one.
    columns: the state -> further columns of a row of metrics.
    client_rows: all clients' states -> the rows of ``clients.csv``.
    summary: () -> name/value pairs for the start of a run: who holds what.
    pass_cost: of a pass over a client's data for statistics alone.
    effort: () -> the operations that an example takes each party.
  """

  plan: Plan
  parties: tuple[Party, ...]
  autoencoder: Autoencoder | None
  loss_gradient: Callable[[PyTree, Batch], tuple[PyTree, Metrics]]
  init: Callable[[Variables], SplitState]
  init_client: Callable[[SplitState], ClientState]
  begin: Callable[[SplitState, ClientState], tuple[Part, ...]]
  end: Callable[..., tuple[SplitState, ClientState, PyTree]]
  close: Callable[[SplitState, PyTree], SplitState]
  steps: Callable[[Array], Array]
  order: Callable[[RoundContext, int], Array]
  step_tally: Callable[[Array, Array], Tally]
  client_variables: Callable[[SplitState, ClientState], Variables] | None
  columns: Callable[[SplitState], dict[str, float]]
  client_rows: Callable[[ClientState], list[dict[str, float]]]
  summary: Callable[[], list[tuple[str, str]]]
  pass_cost: Cost
  effort: Callable[[], Effort]


def make_rules(
  model: nn.Module,
  config: SplitConfig,
  image: jax.ShapeDtypeStruct,
  label: jax.ShapeDtypeStruct,
  seed: int = 0,
) -> Rules:
  """What each party does, and what joins the turns.

  Args:
    model: the whole, its norm bound to no axis.
    config: the options.
    image: (H, W, C) and the dtype that the model computes in.
    label: of one example.
    seed: of the decoder's initial weights; those of the model come with ``init``.

  Raises:
    UserError: options that the model or its norm denies.
  """
  if not isinstance(model, Staged):
    raise UserError("this model is not a sequence of stages, so it cannot be cut; choose another.")
  spec, policy = model.norm, config.policy(model.norm)
  if spec.across_nodes:
    raise UserError(
      f"norm {spec.name!r} merges the batches of clients that step together, and across a cut each "
      "batch is alone with Bob; choose bn or another norm."
    )
  check_policy(policy, spec)
  if spec.weight_norm and config.handed_over == "updates":
    raise UserError(
      "weight normalization starts from a batch of all clients' examples, which no seed gives; use "
      "handed_over=weights or another norm."
    )
  plan = make_plan(model, image.shape, config.cut, config.tail, config.relay_stages)
  shapes, outputs = segment_shapes(model, plan, image)
  check_own_losses(model, plan, image, outputs, labelled=config.autoencoder is None)
  parties = make_parties(model, plan, config, shapes)
  autoencoder = None
  if config.autoencoder is not None:
    if len(jax.tree.leaves(outputs[0])) > 1:
      raise UserError("the decoder reads one tensor, and several cross this cut; drop autoencoder.")
    autoencoder = make_autoencoder(outputs[0], image.shape, config, config.autoencoder)
  batch_size = config.batch_size
  owners = [segment.owner for segment in plan.segments] + [ALICE] * bool(autoencoder)
  own = tuple(index for index, owner in enumerate(owners) if owner == ALICE)
  mean = tuple(config.averaged(owner) for owner in owners)
  local_stats = policy == "local" and spec.has_running_statistics
  shared_stats = "mean" if policy == "local" else policy
  shared = combiner(shared_stats if spec.updates_running_statistics else "frozen")
  policies = [combiner("local") if local_stats and o == ALICE else shared for o in owners]

  def hold(variables: Sequence[Variables], decoder: Variables | None) -> tuple[Part, ...]:
    parts = [party.init(part) for party, part in zip(parties, variables, strict=True)]
    if autoencoder:
      key = stream(jax.random.key(seed), Stream.DECODER)
      parts.append(autoencoder.hold(decoder or autoencoder.init(key)))
    return tuple(parts)

  step_tally = make_step_tally(plan, outputs, label, batch_size, trips=config.in_turns)
  held = jax.eval_shape(lambda parts: hold(parts, None), shapes)
  size = sum(trees.num_bytes(travelling(held[index], config)) for index in own)

  def init(variables: Variables) -> SplitState:
    parts = hold(divide(variables, shapes), None)
    keeps = config.client_momentum == "global"
    opt_states = [
      part.opt_state if keeps or not averaged else ()
      for part, averaged in zip(parts, mean, strict=True)
    ]
    decoder = parts[-1].variables if autoencoder else ()
    return SplitState(
      variables,
      tuple(opt_states),
      decoder,
      jnp.int32(-1),
      jnp.int32(-1),
      jnp.int32(0),
      Tally.zeros(),
      jnp.float32(0),
    )

  def init_client(state: SplitState) -> ClientState:
    parts = hold(divide(state.variables, shapes), state.decoder)
    keeps = config.client_momentum == "local"
    return ClientState(
      tuple(stats_of(parts[index]) if local_stats else () for index in own),
      tuple(
        part.opt_state if keeps and averaged else ()
        for part, averaged in zip(parts, mean, strict=True)
      ),
      jnp.int32(0),
      jnp.int32(-1),
      jnp.int32(-1),
      Tally.zeros(),
    )

  def begin(state: SplitState, client: ClientState) -> tuple[Part, ...]:
    parts = list(hold(divide(state.variables, shapes), state.decoder))
    for index, averaged in enumerate(mean):
      if not averaged or config.client_momentum == "global":
        parts[index] = parts[index]._replace(opt_state=state.opt_states[index])
      elif config.client_momentum == "local":
        parts[index] = parts[index]._replace(opt_state=client.opt_states[index])
    if local_stats:
      for index, stats in zip(own, client.batch_stats, strict=True):
        parts[index] = with_stats(parts[index], stats)
    return tuple(parts)

  def end(state, client, row, context: RoundContext, parts, tally: Tally, reconstruction):
    before = hold(divide(state.variables, shapes), state.decoder)
    weight = context.data.sizes[row].astype(jnp.float32)
    identity = context.data.clients[row]
    own_tally, handed = count_hand_over(config, size, state, client, identity)
    carried = [
      old if averaged else new for old, new, averaged in zip(before, parts, mean, strict=True)
    ]
    sums = {
      "weight": weight,
      "tally": tally.add(handed),
      "reconstruction": weight * reconstruction,
      "averaged": [
        to_sums(old, new, weight, policy, config.client_momentum == "global") if averaged else ()
        for old, new, averaged, policy in zip(before, parts, mean, policies, strict=True)
      ],
    }
    kept = ClientState(
      tuple(stats_of(parts[index]) if local_stats else () for index in own),
      tuple(
        part.opt_state if stored != () else ()
        for part, stored in zip(parts, client.opt_states, strict=True)
      ),
      client.turns + 1,
      jnp.where(client.turns == 0, state.turns, client.first),
      state.turns,
      client.tally.add(tally.add(own_tally)),
    )
    if local_stats:  # what the federation holds of them stays as it began
      for index in own:
        carried[index] = with_stats(carried[index], stats_of(before[index]))
    state = put(state, carried)
    if config.in_turns:
      starter = jnp.where(state.turns == 0, identity, state.starter)
      state = state._replace(starter=starter, last=identity, turns=state.turns + 1)
    return state, kept, sums

  def put(state: SplitState, parts: Sequence[Part]) -> SplitState:
    variables = join([part.variables for part in parts[: len(plan.segments)]])
    opt_states = tuple(
      () if averaged and config.client_momentum != "global" else part.opt_state
      for part, averaged in zip(parts, mean, strict=True)
    )
    decoder = parts[-1].variables if autoencoder else ()
    return state._replace(variables=variables, opt_states=opt_states, decoder=decoder)

  def close(state: SplitState, sums: PyTree) -> SplitState:
    parts = list(hold(divide(state.variables, shapes), state.decoder))
    for index, (averaged, policy) in enumerate(zip(mean, policies, strict=True)):
      parts[index] = parts[index]._replace(opt_state=state.opt_states[index])
      if averaged:
        parts[index] = from_sums(parts[index], sums["averaged"][index], sums["weight"], policy)
    return put(state, parts)._replace(
      tally=state.tally.add(sums["tally"]), reconstruction=sums["reconstruction"] / sums["weight"]
    )

  def order(context: RoundContext, turns: int) -> Array:
    places = jnp.arange(turns, dtype=jnp.int32)
    if config.turn_order != "shuffled":
      return places
    key = jax.random.fold_in(stream(context.key, Stream.TURN), context.round)
    return permuted(key, places, turns)

  def client_variables(state: SplitState, client: ClientState) -> Variables:
    parts = list(divide(state.variables, shapes))
    for index, stats in zip(plan.owned_by(ALICE), client.batch_stats, strict=False):
      parts[index] = with_stats(Part(parts[index], ()), stats).variables
    return join(parts)

  effort = functools.cache(lambda: party_flops(model, plan, image, batch_size, autoencoder))

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
    lambda state: state_columns(config, effort(), state),
    lambda clients: client_rows(config, size, effort(), clients),
    lambda: describe(model, plan, shapes, outputs),
    pass_cost(plan, shapes, outputs),
    effort,
  )
