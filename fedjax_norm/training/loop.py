"""The loop of every run: intervals of compiled rounds, and between them the world outside."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm import trees
from fedjax_norm.algorithms.base import Algorithm, Context
from fedjax_norm.algorithms.statistics import Part
from fedjax_norm.clock import Clock, Share
from fedjax_norm.comm import Cost, Traffic
from fedjax_norm.control.dial import Dial
from fedjax_norm.control.freeze import Freeze, FreezeState
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.control.skewscout import ScoutState
from fedjax_norm.data.federated import FederatedData
from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.local import Metrics
from fedjax_norm.nodes import Nodes
from fedjax_norm.objectives import OBJECTIVES
from fedjax_norm.training.checkpoint import Checkpoints
from fedjax_norm.training.clients import ClientStore
from fedjax_norm.training.diagnose import Diagnose
from fedjax_norm.training.feed import Feed, placer
from fedjax_norm.training.homes import HomeFeed, Homes, HomeStore
from fedjax_norm.training.measures import MEASURES, measures_of
from fedjax_norm.training.message_log import MessageLog
from fedjax_norm.training.progress import Progress
from fedjax_norm.training.run_folder import RunFolder
from fedjax_norm.training.scouting import Scouting
from fedjax_norm.typing import Key, PyTree, Variables

# The most memory that the states of the clients of a window of rounds may take on the device.
_STATE_BUDGET = 2**30


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """How long a run is and when it looks up.

  Attributes:
    rounds: of the whole run.
    eval_every: rounds between two evaluations.
    cohort: clients a round; 0 is all of them.
    seed: of everything random in the run, below 2^32.
  """

  rounds: int
  eval_every: int
  cohort: int = 0
  seed: int = 0

  def __post_init__(self):
    for field in ("rounds", "eval_every"):
      if getattr(self, field) < 1:
        raise UserError(f"{field} is {getattr(self, field)}; it must be at least 1.")
    for field in ("cohort", "seed"):
      if getattr(self, field) < 0:
        raise UserError(f"{field} is {getattr(self, field)}; it must be 0 or more.")

    if self.seed >= 2**32:
      raise UserError(f"seed is {self.seed}; it must be below 2^32.")

  def cohort_of(self, num_clients: int) -> int:
    """The number of clients a round in a population.

    Raises:
      UserError: the cohort is larger than the population.
    """
    if self.cohort > num_clients:
      raise UserError(f"a cohort of {self.cohort} cannot be drawn from {num_clients} clients.")
    return self.cohort or num_clients


class Phase(NamedTuple):
  """A stretch of training with one static spec: one compiled program.

  Attributes:
    algorithm: the algorithm as it is in this phase.
    rate_factor: multiplies the schedule's learning rate.
    refresh: (variables, all clients' data in parts, key) -> batch_stats, run before an evaluation
      when the statistics are recalibrated; None otherwise.
    refresh_cost: what a client sends and receives then; a step of it is an example.
    refresh_steps: [K] the time that it takes each client, in training steps.
  """

  algorithm: Algorithm
  rate_factor: float = 1.0
  refresh: Callable[[Variables, Iterable[Part], Key], PyTree] | None = None
  refresh_cost: Cost = Cost(0, 0)
  refresh_steps: np.ndarray = np.zeros(0)


Evaluate = Callable[
  [Algorithm, PyTree, ClientStore, FederatedData, Key], tuple[dict[str, float], dict[int, float]]
]


class Program(NamedTuple):
  """What is compiled once and then run with any seed.

  Attributes:
    phases: by name.
    nodes: the mapping.
    evaluate: (algorithm, the server's state, the clients' store, the federation on the host, the
      run's key) -> (a row's test columns, the accuracies of the clients that were evaluated by id).
    freeze: when the phase changes.
    plateau: when the rate is lowered.
    clock: what a round would take; None tells no simulated time.
    rates: [rounds] the schedule's learning rates.
    data_on: ``'device'`` if all the data stays there, ``'host'`` if it comes in windows.
    intervals: the compiled interval of each phase, filled by :func:`make_program`.
    diagnose: measures how clients differ at evaluations; None does not.
    dial: what sets theta; None for algorithms without.
    scouting: SkewScout's looks; None for none.
    objective: of ``objectives.OBJECTIVES``, which training metrics are of.
    messages: the log of split learning's messages, where they are objects; else None.
  """

  phases: dict[str, Phase]
  nodes: Nodes
  evaluate: Evaluate
  freeze: Freeze | None
  plateau: Plateau | None
  clock: Clock | None
  rates: np.ndarray
  data_on: str
  intervals: dict[str, Callable[..., Any]]
  diagnose: Diagnose | None = None
  dial: Dial | None = None
  scouting: Scouting | None = None
  objective: str = "classification"
  messages: MessageLog | None = None


class Outcome(NamedTuple):
  """What a run ends with.

  Attributes:
    variables: the global model, host arrays.
    clients: the clients' lasting states.
    rows: one a evaluation, as in ``metrics.csv``.
    frozen_at: the round of the freeze, or None.
    client_accuracies: the accuracy on its own mix of labels of each client that was evaluated, by
      its id; empty unless asked for.
    diagnostics: the rows of all evaluations, as in ``diagnostics.csv``; empty unless asked for.
  """

  variables: Variables
  clients: ClientStore
  rows: list[dict[str, Any]]
  frozen_at: int | None
  client_accuracies: dict[int, float]
  diagnostics: list[dict[str, Any]]


class _State(NamedTuple):
  """Everything a checkpoint holds."""

  server: PyTree
  clients: PyTree
  freeze: FreezeState | None
  plateau: PyTree
  round: np.int64
  traffic: np.ndarray
  seconds: np.float64
  simulated: np.float64
  scout: ScoutState | None


def make_interval(algorithm: Algorithm, nodes: Nodes) -> Callable[..., Any]:
  """One program for any rounds of a window in a phase.

  Returns:
    (server, clients [U, ...], metrics so far, slots [R, m], rates [R], thetas [R], first, begin,
    end, data, key) -> (server, clients, metrics). Of the R rounds, the first of which is the run's
    round ``first``, those from ``begin`` to before ``end`` are run. ``slots`` says where in
    ``clients``, and in the rows of ``data``, each of a cohort is. The states are donated.
  """

  def interval(server, clients, metrics, slots, rates, thetas, first, begin, end, data, key):
    def body(index, carry):
      server, clients, total = carry
      chosen = nodes.take(clients, slots[index])
      context = Context(data, first + index, rates[index], key, thetas[index])
      server, chosen, metrics = algorithm.round(server, chosen, slots[index], context)
      clients = nodes.put(clients, slots[index], chosen)
      return server, clients, trees.add(total, metrics)

    return jax.lax.fori_loop(begin, end, body, (server, clients, metrics))

  shardings = (nodes.sharding, nodes.held_sharding, nodes.sharding)
  return jax.jit(interval, donate_argnums=(0, 1), out_shardings=shardings)


def make_program(
  phases: dict[str, Phase],
  nodes: Nodes,
  evaluate: Evaluate,
  rates: np.ndarray,
  freeze: Freeze | None = None,
  data_on: str = "device",
  plateau: Plateau | None = None,
  clock: Clock | None = None,
  diagnose: Diagnose | None = None,
  dial: Dial | None = None,
  scouting: Scouting | None = None,
  objective: str = "classification",
) -> Program:
  """The program of a run; its intervals compile when they are first reached."""
  intervals = {name: make_interval(phase.algorithm, nodes) for name, phase in phases.items()}
  return Program(
    phases,
    nodes,
    evaluate,
    freeze,
    plateau,
    clock,
    rates,
    data_on,
    intervals,
    diagnose,
    dial,
    scouting,
    objective,
  )


def train(
  program: Program,
  config: LoopConfig,
  data: FederatedData,
  variables: Variables,
  folder: RunFolder | None = None,
  show_progress: bool = False,
) -> Outcome:
  """Trains to the last round, or goes on from a folder's checkpoint.

  Args:
    program: what to run.
    config: its length and seed.
    data: the federation, host arrays.
    variables: the initial model; it stays as it is.
    folder: where rows and checkpoints go; nothing is written without one.
    show_progress: whether to draw a progress bar.

  Raises:
    UserError: a cohort larger than the population, data that fits no memory, or a folder that has
      lost a part of its run.
    DivergedError: a loss is not finite; what was saved before stays.
  """
  algorithm = next(iter(program.phases.values())).algorithm
  freeze, plateau, scouting = program.freeze, program.plateau, program.scouting
  # A copy, for the programs take over the memory of the states they are given.
  server = algorithm.init(jax.tree.map(jnp.array, variables))
  store = _make_store(program.nodes, algorithm.init_client(server), data.num_clients)
  state = _State(
    server,
    store.saved(),
    freeze.init(variables["batch_stats"]) if freeze else None,
    plateau.init() if plateau else None,
    np.int64(0),
    np.zeros(3, np.int64),
    np.float64(0),
    np.float64(0),
    scouting.scout.init() if scouting else None,
  )
  rows: list[dict[str, Any]] = []
  diagnosed: list[dict[str, Any]] = []
  with contextlib.ExitStack() as stack:
    checkpoints = None
    if folder:
      checkpoints = stack.enter_context(Checkpoints(folder.path / "checkpoints"))
      if folder.resumed:
        state, rows = _resume(folder, checkpoints, state)
        diagnosed = folder.diagnostics()
    store.restore(state.clients)
    server, control, round_ = placer(program.nodes)(state.server), state.freeze, int(state.round)
    run = _Run.of(program, config, data, store, round_)
    stack.enter_context(run.feed)
    traffic, seconds = Traffic(*map(int, state.traffic)), float(state.seconds)
    slope, simulated, scouted = state.plateau, float(state.simulated), state.scout
    accuracy_loss = rows[-1]["accuracy_loss"] if scouting and rows else float("nan")
    right = OBJECTIVES[program.objective].train_column
    peaks = np.maximum.accumulate(program.rates)
    accuracies: dict[int, float] = {}

    bar = stack.enter_context(Progress(config.rounds, round_, show_progress))
    while round_ < config.rounds:
      started, first = time.perf_counter(), round_
      name, round_ = _next_interval(program, config, control, scouted, first)
      phase = program.phases[name]
      factor = phase.rate_factor * (plateau.factor_of(slope) if plateau else np.float32(1))
      rates = program.rates[first:round_] * np.float32(factor)
      thetas = np.zeros_like(rates)
      if program.dial:
        thetas = program.dial.of(first, rates, peaks[first:round_], scouted)
      server, total, sent, took = _run_interval(run, name, server, first, rates, thetas)
      if scouted:
        scouted = scouted._replace(sent=scouted.sent + sent.bytes_up + sent.bytes_down)
      if not np.isfinite(total.loss):
        _diverged(first, round_, folder)
      if phase.refresh:
        model = phase.algorithm.variables(server)
        stats = phase.refresh(model, run.feed.everyone(), run.key)
        server = server._replace(variables={**model, "batch_stats": stats})
        sent += phase.refresh_cost.of_round(np.asarray(data.sizes).tolist())
        if program.clock:
          everyone = np.arange(data.num_clients)
          took += program.clock.round_seconds(phase.refresh_cost, everyone, phase.refresh_steps)
      scores, accuracies = program.evaluate(phase.algorithm, server, store, data, run.key)
      if not np.isfinite(scores["loss"]):
        _diverged(first, round_, folder)
      if freeze and control:
        stats = phase.algorithm.variables(server)["batch_stats"]
        control = freeze.observe(control, stats, round_)
      train_loss = float(total.loss / total.examples)
      if plateau and not (scouted and round_ % config.eval_every and round_ < config.rounds):
        slope = plateau.observe(slope, train_loss, round_)
      traffic, simulated = traffic + sent, simulated + took
      if scouting and scouted and round_ == scouted.next_look:
        here = run.feed.window(round_ - 1).data
        scouted, accuracy_loss, journey = scouting.look(
          scouted,
          name,
          phase.algorithm,
          server,
          store,
          here,
          run.place,
          run.key,
          round_,
          config.seed,
        )
        nothing = np.zeros(data.num_clients, int)
        traffic += journey.of_round(nothing.tolist())
        if program.clock:
          everyone = np.arange(data.num_clients)
          simulated += program.clock.round_seconds(journey, everyone, nothing)
      elapsed = time.perf_counter() - started
      seconds += elapsed
      row = {
        "round": round_,
        "phase": name,
        "train_loss": train_loss,
        **({right: float(total.correct / total.examples)} if right else {}),
        **scores,
        "rate": float(rates[-1]),
        **({"theta": float(thetas[-1])} if program.dial else {}),
        **({"accuracy_loss": accuracy_loss} if scouting else {}),
        "examples": int(total.examples),
        **traffic._asdict(),
        "seconds": seconds,
        **({"simulated_seconds": simulated} if program.clock else {}),
        **{name: np.asarray(value).item() for name, value in algorithm.columns(server).items()},
      }
      rows.append(row)
      if program.diagnose:
        key = jax.random.key(config.seed)
        more = program.diagnose(name, phase.algorithm, server, store, data, round_, key)
        diagnosed += more
        if folder:
          folder.append_diagnostics(more)
      if folder and checkpoints:
        # The row first: a kill in between leaves one row too many, which resuming cuts off.
        folder.append(row)
        state = _State(
          jax.tree.map(np.asarray, server),
          store.saved(),
          control,
          slope,
          np.int64(round_),
          np.array(traffic, np.int64),
          np.float64(seconds),
          np.float64(simulated),
          scouted,
        )
        checkpoints.save(round_, state)
      measure, tested = next(iter(measures_of(row).items()))
      told = f"{tested.title} {tested.told(row[measure])}"
      bar.update(round_, row["train_loss"], told, total.examples / elapsed)
  frozen_at = int(control.frozen_at) if control and control.frozen_at >= 0 else None
  model = jax.tree.map(np.asarray, algorithm.variables(server))
  return Outcome(model, store, rows, frozen_at, accuracies, diagnosed)


def _make_store(nodes: Nodes, one: PyTree, num_clients: int) -> ClientStore:
  if nodes.apart:
    return HomeStore(one, nodes, Homes(num_clients, nodes.num_devices), num_clients)
  return ClientStore(one, num_clients)


def _resume(
  folder: RunFolder, checkpoints: Checkpoints, fresh: _State
) -> tuple[_State, list[dict[str, Any]]]:
  """The state of the last checkpoint, and the rows up to it."""
  state = fresh if checkpoints.latest() is None else checkpoints.restore(fresh)
  round_ = int(state.round)
  folder.cut_back(round_)
  rows = [row for row in folder.rows() if row["round"] <= round_]
  if (rows[-1]["round"] if rows else 0) != round_:
    raise UserError(
      f"{folder.path} has a checkpoint of round {round_}, but its metrics.csv ends before; put the "
      "file back or pass another --workdir."
    )
  return state, rows


def _next_interval(
  program: Program,
  config: LoopConfig,
  control: FreezeState | None,
  scouted: ScoutState | None,
  round_: int,
) -> tuple[str, int]:
  """(the phase of the interval that starts at a round, the round before which it ends)."""
  stop = min(config.rounds, round_ + config.eval_every - round_ % config.eval_every)
  if scouted:
    stop = min(stop, int(scouted.next_look))
  if program.freeze is None or control is None:
    return next(iter(program.phases)), stop
  change = program.freeze.next_change(control, round_)
  return program.freeze.phase(control, round_), stop if change is None else min(stop, change)


class _Run(NamedTuple):
  """What an interval needs beside the server's state.

  Attributes:
    program: what is run.
    store: the clients' states.
    sizes: [K], host.
    feed: the data as rounds need it.
    key: of the run, on the device.
    place: puts a tree where the program wants it.
  """

  program: Program
  store: ClientStore
  sizes: np.ndarray
  feed: Feed | HomeFeed
  key: Key
  place: Callable[[PyTree], PyTree]

  @classmethod
  def of(
    cls, program: Program, config: LoopConfig, data: FederatedData, store: ClientStore, start: int
  ) -> "_Run":
    cohort, place = config.cohort_of(data.num_clients), placer(program.nodes)
    key = place(jax.random.key(config.seed))
    longest = min(config.eval_every, config.rounds)
    feed: Feed | HomeFeed
    if program.nodes.apart:
      feed = HomeFeed(
        data,
        program.nodes,
        key,
        rounds=config.rounds,
        cohort=cohort,
        longest=longest,
        client_bytes=store.client_bytes,
      )
      return cls(program, store, np.asarray(data.sizes), feed, key, place)
    feed = Feed(
      data,
      program.nodes,
      key,
      on_host=program.data_on == "host",
      rounds=config.rounds,
      start=start,
      cohort=cohort,
      longest=_most_rounds(longest, cohort, data.num_clients, store.client_bytes),
    )
    return cls(program, store, np.asarray(data.sizes), feed, key, place)


def _run_interval(
  run: _Run, name: str, server: PyTree, first: int, rates: np.ndarray, thetas: np.ndarray
) -> tuple[PyTree, Metrics, Traffic, float]:
  """Runs a round for each of the rates (and thetas) from the first on, window by window.

  Where traffic depends on what was learnt, the clock takes each of the rounds for their mean.

  Returns:
    (the server's state, metrics, traffic, the seconds that it would have taken).
  """
  algorithm, clock, place = run.program.phases[name].algorithm, run.program.clock, run.place
  total, traffic, simulated = place(Metrics.zeros()), Traffic(), 0.0
  before = algorithm.sent(server) if algorithm.sent else Traffic()
  start, stop, ran = first, first + len(rates), []
  while first < stop:
    window = run.feed.window(first)
    begin, end = first - window.first, min(stop, window.end) - window.first
    padded = np.zeros((2, len(window.slots)), np.float32)
    padded[:, begin:end] = [values[first - start :][: end - begin] for values in (rates, thetas)]
    server, states, total = run.program.intervals[name](
      server,
      run.feed.states(run.store, window),
      total,
      window.slots,
      *place(tuple(padded)),
      place(np.int32(window.first)),
      place(np.int32(begin)),
      place(np.int32(end)),
      window.data,
      run.key,
    )
    # Or the windows that are read ahead of the work would wait in memory.
    jax.block_until_ready(total)
    ran += list(window.cohorts[begin:end])
    run.feed.keep(run.store, window, states)
    run.store.seen[window.cohorts[begin:end]] = True
    first = window.first + end
  sent = algorithm.sent(server).minus(before) if algorithm.sent else Traffic()
  share = Share.of(sent, sum(map(len, ran)), len(ran))
  for chosen in ran:
    steps = np.asarray(algorithm.local_steps(run.sizes[chosen]))
    traffic += algorithm.cost.of_round(steps.tolist())
    if clock:
      simulated += clock.round_seconds(algorithm.cost, chosen, steps, share)
  return server, jax.tree.map(np.asarray, total), traffic + sent, simulated


def _most_rounds(longest: int, cohort: int, num_clients: int, client_bytes: int) -> int:
  """The rounds of a window at the most, by the memory of the states of the clients they touch."""
  if num_clients * client_bytes <= _STATE_BUDGET:
    return longest
  return max(1, min(longest, _STATE_BUDGET // (cohort * client_bytes)))


def _diverged(first: int, last: int, folder: RunFolder | None) -> None:
  kept = f"; the checkpoint of round {first} is kept in {folder.path}" if folder and first else ""
  raise DivergedError(
    f"the loss became infinite or not a number between rounds {first} and {last}{kept}; lower the "
    "learning rate or clip gradients (after a FixBN freeze, by its own settings)."
  )


# How the columns of several models, and of an ensemble's members, begin.
_GROUPS = ("clients_", "models_", "personal_", "member")


def summary(outcome: Outcome) -> dict[str, Any]:
  """The figures of a run's end, as in ``summary.json``."""
  last = outcome.rows[-1]
  names = ["loss", *MEASURES, "mse", *(name for name in last if name.startswith("iou_"))]
  names += ["threshold", "verification_error"]
  names += ["bytes_up", "bytes_down", "round_trips", "seconds"]
  names += ["simulated_seconds", "staleness_mean", "staleness_max", "theta", "accuracy_loss"]
  names += ["client_flops", "server_flops", "relay_flops", "relay_bytes", "reconstruction"]
  return {
    "rounds": last["round"],
    **{name: last[name] for name in names if name in last and not np.isnan(last[name])},
    **{name: last[name] for name in last if name.startswith(_GROUPS)},
    **({"frozen_at": outcome.frozen_at} if outcome.frozen_at is not None else {}),
  }
