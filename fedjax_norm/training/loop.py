"""The loop of every run: intervals of compiled rounds, and between them the world outside."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm import trees
from fedjax_norm.algorithms.base import Algorithm, Context
from fedjax_norm.comm import Traffic
from fedjax_norm.control.freeze import Freeze, FreezeState
from fedjax_norm.data.federated import FederatedData, cohorts
from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.local import Metrics
from fedjax_norm.nodes import Nodes
from fedjax_norm.training.checkpoint import Checkpoints
from fedjax_norm.training.clients import ClientStore
from fedjax_norm.training.progress import Progress
from fedjax_norm.training.run_folder import RunFolder
from fedjax_norm.typing import Key, PyTree, Variables

# The most memory that the states of an interval's clients may take on the device; a longer interval
# runs in pieces.
_STATE_BUDGET = 2**30


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """How long a run is and when it looks up.

  Attributes:
    rounds: of the whole run.
    eval_every: rounds between two evaluations.
    cohort: clients a round; 0 is all of them.
    seed: of everything random in the run.
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
    refresh: (variables, data, key) -> batch_stats, run before an evaluation when the statistics are
      recalibrated; None otherwise.
    refresh_cost: its traffic.
  """

  algorithm: Algorithm
  rate_factor: float = 1.0
  refresh: Callable[[Variables, FederatedData, Key], PyTree] | None = None
  refresh_cost: Traffic = Traffic()


Evaluate = Callable[
  [Algorithm, PyTree, ClientStore, FederatedData], tuple[dict[str, float], dict[int, float]]
]


class Program(NamedTuple):
  """What is compiled once and then run with any seed.

  Attributes:
    phases: by name.
    nodes: the mapping.
    evaluate: (algorithm, the server's state, the clients' store, the federation on the host) -> (a
      row's test columns, the accuracies of the clients that were evaluated by id).
    freeze: when the phase changes.
    rates: [rounds] the schedule's learning rates.
    intervals: the compiled interval of each phase, filled by :func:`make_program`.
  """

  phases: dict[str, Phase]
  nodes: Nodes
  evaluate: Evaluate
  freeze: Freeze | None
  rates: np.ndarray
  intervals: dict[str, Callable[..., Any]]


class Outcome(NamedTuple):
  """What a run ends with.

  Attributes:
    variables: the global model, host arrays.
    clients: the clients' lasting states.
    rows: one a evaluation, as in ``metrics.csv``.
    frozen_at: the round of the freeze, or None.
    client_accuracies: the accuracy on its own mix of labels of each client that was evaluated, by
      its id; empty unless asked for.
  """

  variables: Variables
  clients: ClientStore
  rows: list[dict[str, Any]]
  frozen_at: int | None
  client_accuracies: dict[int, float]


class _State(NamedTuple):
  """Everything a checkpoint holds."""

  server: PyTree
  clients: PyTree
  freeze: FreezeState | None
  round: np.int64
  traffic: np.ndarray
  seconds: np.float64


def make_interval(algorithm: Algorithm, nodes: Nodes) -> Callable[..., Any]:
  """One program for any number of rounds of a phase.

  Returns:
    (server, clients [U, ...], cohorts [R, m], slots [R, m], rates [R], first round, rounds, data,
    key) -> (server, clients, metrics summed over rounds). Only the first ``rounds`` of the R are
    run; ``slots`` says where in ``clients`` the state of each of a cohort is. The states are
    donated.
  """

  def interval(server, clients, cohort_ids, slots, rates, first, rounds, data, key):
    def body(index, carry):
      server, clients, total = carry
      chosen = jax.tree.map(lambda a: a[slots[index]], clients)
      context = Context(data, first + index, rates[index], key)
      server, chosen, metrics = algorithm.round(server, chosen, cohort_ids[index], context)
      clients = jax.tree.map(lambda a, b: a.at[slots[index]].set(b), clients, chosen)
      return server, clients, trees.add(total, metrics)

    return jax.lax.fori_loop(0, rounds, body, (server, clients, Metrics.zeros()))

  return jax.jit(interval, donate_argnums=(0, 1), out_shardings=nodes.sharding)


def make_program(
  phases: dict[str, Phase],
  nodes: Nodes,
  evaluate: Evaluate,
  rates: np.ndarray,
  freeze: Freeze | None = None,
) -> Program:
  """The program of a run; its intervals compile when they are first reached."""
  intervals = {name: make_interval(phase.algorithm, nodes) for name, phase in phases.items()}
  return Program(phases, nodes, evaluate, freeze, rates, intervals)


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
    variables: the initial model.
    folder: where rows and checkpoints go; nothing is written without one.
    show_progress: whether to draw a progress bar.

  Raises:
    UserError: a cohort larger than the population.
    DivergedError: a loss is not finite; what was saved before stays.
  """
  num_clients = data.num_clients
  cohort = config.cohort_of(num_clients)
  place = _placer(program.nodes)
  key = place(jax.random.key(config.seed))
  sizes = np.asarray(data.sizes)
  phases, freeze = program.phases, program.freeze
  first_algorithm = next(iter(phases.values())).algorithm

  server = first_algorithm.init(variables)
  store = ClientStore(first_algorithm.init_client(server), num_clients)
  control = freeze.init(variables.get("batch_stats", {})) if freeze else None
  checkpoints = Checkpoints(folder.path / "checkpoints") if folder else None
  state = _State(server, store.arrays, control, np.int64(0), np.zeros(3, np.int64), np.float64(0))
  rows: list[dict[str, Any]] = []
  if folder and checkpoints and folder.resumed:
    if checkpoints.latest() is not None:
      state = checkpoints.restore(state)
    folder.cut_back(int(state.round))
    rows = folder.rows()
  store.arrays = jax.tree.map(np.array, state.clients)
  server, control, round_ = state.server, state.freeze, int(state.round)
  traffic, seconds = Traffic(*map(int, state.traffic)), float(state.seconds)
  resident, server = place(data), place(server)
  accuracies: dict[int, float] = {}

  pieces = _piece(config.eval_every, cohort, num_clients, store.client_bytes)
  draw_cohorts = jax.jit(
    lambda first: cohorts(jax.random.fold_in(key, 0), first, pieces, num_clients, cohort)
  )
  bar = Progress(config.rounds, round_, show_progress)
  while round_ < config.rounds:
    started, start_round = time.perf_counter(), round_
    name = freeze.phase(control, round_) if freeze and control else next(iter(phases))
    phase = phases[name]
    stop = min(config.rounds, round_ + config.eval_every - round_ % config.eval_every)
    change = freeze.next_change(control, round_) if freeze and control else None
    if change is not None:
      stop = min(stop, change)
    total = jax.tree.map(np.asarray, Metrics.zeros())
    while round_ < stop:
      count = min(pieces, stop - round_)
      ids = np.asarray(draw_cohorts(jnp.int32(round_)))
      present, slots = _slots(ids, count)
      # Every interval has room for as many clients, so that none of them compiles anew.
      room = np.resize(present, min(num_clients, pieces * cohort))
      rates = np.zeros(pieces, np.float32)
      rates[:count] = program.rates[round_ : round_ + count] * np.float32(phase.rate_factor)
      server, gathered, metrics = program.intervals[name](
        server,
        place(store.gather(room)),
        place(ids),
        place(slots),
        place(rates),
        place(np.int32(round_)),
        place(np.int32(count)),
        resident,
        key,
      )
      store.scatter(present, gathered)
      total = jax.tree.map(np.add, total, jax.tree.map(np.asarray, metrics))
      for chosen in ids[:count]:
        steps = np.asarray(phase.algorithm.local_steps(sizes[chosen]))
        traffic += phase.algorithm.cost.of_round(steps.tolist())
      round_ += count
    if not np.isfinite(total.loss):
      _diverged(start_round, round_, folder)
    if phase.refresh:
      model = phase.algorithm.variables(server)
      stats = phase.refresh(model, resident, key)
      server = server._replace(variables={**model, "batch_stats": stats})
      traffic += phase.refresh_cost
    scores, accuracies = program.evaluate(phase.algorithm, server, store, data)
    if not np.isfinite(scores["loss"]):
      _diverged(start_round, round_, folder)
    if freeze and control:
      stats = phase.algorithm.variables(server)["batch_stats"]
      control = freeze.observe(control, stats, round_)
    elapsed = time.perf_counter() - started
    seconds += elapsed
    row = {
      "round": round_,
      "phase": name,
      "train_loss": float(total.loss / total.examples),
      "train_top1": float(total.correct / total.examples),
      **scores,
      "rate": float(program.rates[round_ - 1] * np.float32(phase.rate_factor)),
      "examples": int(total.examples),
      **traffic._asdict(),
      "seconds": seconds,
    }
    rows.append(row)
    if folder and checkpoints:
      # The row first: a kill in between leaves one row too many, which resuming cuts off.
      folder.append(row)
      state = _State(
        jax.tree.map(np.asarray, server),
        store.arrays,
        control,
        np.int64(round_),
        np.array(traffic, np.int64),
        np.float64(seconds),
      )
      checkpoints.save(round_, state)
    bar.update(round_, row["train_loss"], row["top1"], total.examples / elapsed)
  bar.close()
  if checkpoints:
    checkpoints.close()
  frozen_at = int(control.frozen_at) if control and control.frozen_at >= 0 else None
  model = jax.tree.map(np.asarray, first_algorithm.variables(server))
  return Outcome(model, store, rows, frozen_at, accuracies)


def _placer(nodes: Nodes) -> Callable[[PyTree], PyTree]:
  """Puts a tree where the program wants it, so that fresh and restored arrays run one program."""
  if nodes.sharding is None:
    return lambda tree: jax.tree.map(jnp.asarray, tree)
  return lambda tree: jax.device_put(tree, nodes.sharding)


def _piece(eval_every: int, cohort: int, num_clients: int, client_bytes: int) -> int:
  """How many rounds run at once, by the memory of the states of the clients they touch."""
  if num_clients * client_bytes <= _STATE_BUDGET:
    return eval_every
  return max(1, min(eval_every, _STATE_BUDGET // (cohort * client_bytes)))


def _slots(ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Which clients' states the first rounds need, and where each of a cohort finds its own.

  Returns:
    (the distinct client ids of the first ``count`` rounds, [R, m] int32 indices into them).
  """
  present, inverse = np.unique(ids[:count], return_inverse=True)
  slots = np.zeros(ids.shape, np.int32)
  slots[:count] = inverse.reshape(count, -1)
  return present, slots


def _diverged(first: int, last: int, folder: RunFolder | None) -> None:
  kept = f"; the checkpoint of round {first} is kept in {folder.path}" if folder and first else ""
  raise DivergedError(
    f"the loss became infinite or not a number between rounds {first} and {last}{kept}; "
    "lower --lr or set --clip_norm (after a FixBN freeze, --freeze_lr_factor, --freeze_clip_norm)."
  )


def summary(outcome: Outcome) -> dict[str, Any]:
  """The figures of a run's end, as in ``summary.json``."""
  last = outcome.rows[-1]
  names = ("loss", "top1", "top5", "bytes_up", "bytes_down", "round_trips", "seconds")
  return {
    "rounds": last["round"],
    **{name: last[name] for name in names},
    **{name: value for name, value in last.items() if name.startswith("clients_")},
    **({"frozen_at": outcome.frozen_at} if outcome.frozen_at is not None else {}),
  }
