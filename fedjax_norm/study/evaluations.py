"""What the runs of contenders say of each client and class, in the round that the score is of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_norm.evaluation.measures import Measure, compared
from fedjax_norm.study import ranking
from fedjax_norm.study.contender import Contender, SeedRun
from fedjax_norm.study.ranking import Score
from fedjax_norm.study.statistics import Estimate, estimate


class Client(NamedTuple):
  """A client of several runs.

  Clients without a name hold other examples with every seed, so each seed has clients of its own.

  Attributes:
    unseen: whether it took no part in training.
    seed: seed of the only run with this client; -1 for a client with a name, which all seeds have.
    id: its number in that run; -1 for a client with a name.
    name: its name, or text with its number and seed.
  """

  unseen: bool
  seed: int
  id: int
  name: str


class Table(NamedTuple):
  """Values of contenders over clients or classes.

  Attributes:
    rows: the contenders that have any.
    columns: the clients or the classes.
    values: a list for each contender, with an estimate over the seeds for each column.
  """

  rows: list[Contender]
  columns: list[Any]
  values: list[list[Estimate]]


def evaluation_of(run: SeedRun, score: Score) -> dict[str, Any]:
  """Returns the evaluation of the model that a score is of; an empty dict if the run lacks it.

  With ``best``, it is the model of the best round, otherwise the final one.
  """
  return (run.best_evaluation if score == "best" else run.evaluation) or {}


def moment(score: Score) -> Score:
  """Returns how columns about clients are read, to be of the same model as the evaluations."""
  return "best" if score == "best" else "last"


def when(score: Score) -> str:
  """Returns the round of that model in words."""
  return "in the best round by validation" if score == "best" else "after the last round"


def by_client(contenders: Sequence[Contender], score: Score) -> Table:
  """Returns the accuracy of each client, in the order of their names or numbers."""
  several = len({run.seed for one in contenders for run in one.runs}) > 1

  def entries(run: SeedRun) -> dict[Client, float]:
    found = {}
    for one in evaluation_of(run, score).get("clients", []):
      # A name stays, but the ids of the clients that train depend on which ones do not.
      client = Client(one["unseen"], -1, -1, one["name"] or "")
      if not one["name"]:
        name = f"client {one['id']}" + (f", seed {run.seed}" if several else "")
        client = Client(one["unseen"], run.seed, one["id"], name)
      found[client] = _number(one["top1"])
    return found

  table = _table(contenders, entries)
  order = sorted(range(len(table.columns)), key=lambda i: table.columns[i])
  values = [[row[i] for i in order] for row in table.values]
  return Table(table.rows, [table.columns[i] for i in order], values)


def by_class(contenders: Sequence[Contender], score: Score) -> Table:
  """Returns the recall of each class."""

  def entries(run: SeedRun) -> dict[str, float]:
    classes = evaluation_of(run, score).get("classes", [])
    return {one["name"]: _number(one["recall"]) for one in classes}

  return _table(contenders, entries)


def client_accuracies(contender: Contender, score: Score, unseen: bool = False) -> dict[str, float]:
  """Returns name of a client -> its accuracy, as mean over the seeds.

  Only clients with a name of their own are listed.
  """
  return {name: value.mean for name, value in _named(contender, score, unseen).items()}


def worst_client(contender: Contender, score: Score) -> tuple[str, Estimate]:
  """Returns name and accuracy of the client that trained with the lowest accuracy over the seeds.

  The accuracy of each client is averaged over the seeds before the lowest one is chosen. Clients
  without a name differ between the seeds; then it is the mean of each seed's lowest accuracy, and
  the name is empty.
  """
  if named := _named(contender, score, unseen=False):
    name = min(named, key=lambda name: (named[name].mean, name))
    return name, named[name]
  return "", ranking.column(contender, "clients_top1_min", moment(score))


def compared_measures(contenders: Sequence[Contender]) -> dict[str, Measure]:
  """Returns the measures of contenders, without top-5 for at most five classes."""
  columns = {name for one in contenders for run in one.runs for name in run.summary}
  evaluations = [run.evaluation or {} for one in contenders for run in one.runs]
  classes = max((len(one.get("classes", [])) for one in evaluations), default=0)
  return compared(columns, classes)


def _named(contender: Contender, score: Score, unseen: bool) -> dict[str, Estimate]:
  table = by_client([contender], score)
  pairs = zip(table.columns, table.values[0] if table.values else [], strict=True)
  return {
    client.name: value
    for client, value in pairs
    if client.seed < 0 and client.unseen == unseen and value.seeds
  }


def _table(
  contenders: Sequence[Contender], entries: Callable[[SeedRun], Mapping[Any, float]]
) -> Table:
  found = [[entries(run) for run in one.runs] for one in contenders]
  rows = [(one, runs) for one, runs in zip(contenders, found, strict=True) if any(runs)]
  columns = list(dict.fromkeys(key for _, runs in rows for run in runs for key in run))
  values = [[estimate(run.get(key, np.nan) for run in runs) for key in columns] for _, runs in rows]
  return Table([one for one, _ in rows], columns, values)


def _number(value: float | None) -> float:
  return np.nan if value is None else value
