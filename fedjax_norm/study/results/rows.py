"""Every number of the contenders, as rows of a table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from fedjax_norm.cli.text_tables import as_csv
from fedjax_norm.study import evaluations, ranking
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion, Score

_COSTS = (
  "rounds", "bytes_up", "bytes_down", "round_trips", "seconds", "simulated_seconds",
)  # fmt: skip
_CLIENTS = ("clients_top1", "clients_top1_min", "unseen_top1", "unseen_top1_min")


def as_rows(contenders: Sequence[Contender], criterion: Criterion) -> list[dict[str, Any]]:
  """Returns the results of each contender by name, setting by setting, the best first.

  Means over the seeds have a name such as ``top1_best``, their standard deviations
  ``top1_best_std``, and the values of the ranking measure by seed ``top1_best_seeds``. What is
  unknown is None.
  """
  rows = []
  for members in ranking.by_setting(contenders).values():
    target = ranking.target(members, criterion)
    for rank, one in enumerate(ranking.ranked(members, criterion), 1):
      place = rank if ranking.has_score(one, criterion) else None
      rows.append({"rank": place, **_row(one, criterion, target)})
  return rows


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns rows as CSV text; each value of a dict gets a column of its own."""
  flat = [dict(_flatten(row)) for row in rows]
  head = list(dict.fromkeys(name for row in flat for name in row))
  return as_csv(head, [[row.get(name, "") for name in head] for row in flat])


def clients_text(contenders: Sequence[Contender], criterion: Criterion) -> str:
  """Returns the accuracy of each client with each contender as CSV text."""
  lines = []
  for setting, members in ranking.by_setting(contenders).items():
    found = evaluations.by_client(ranking.ranked(members, criterion), criterion.score)
    for one, values in zip(found.rows, found.values, strict=True):
      for client, value in zip(found.columns, values, strict=True):
        if value.seeds:
          numbers = [_text(value.mean), _text(value.std), value.seeds]
          lines.append([one.name, setting, client.name, int(client.unseen), *numbers])
  return as_csv(["contender", "setting", "client", "unseen", "mean", "std", "seeds"], lines)


def classes_text(contenders: Sequence[Contender], criterion: Criterion) -> str:
  """Returns the recall of each class with each contender as CSV text."""
  lines = []
  for setting, members in ranking.by_setting(contenders).items():
    found = evaluations.by_class(ranking.ranked(members, criterion), criterion.score)
    for one, values in zip(found.rows, found.values, strict=True):
      for name, value in zip(found.columns, values, strict=True):
        numbers = [_text(value.mean), _text(value.std), value.seeds]
        lines.append([one.name, setting, name, *numbers])
  return as_csv(["contender", "setting", "class", "recall", "std", "seeds"], lines)


def _row(one: Contender, criterion: Criterion, target: float) -> dict[str, Any]:
  tuning = one.tuning
  row: dict[str, Any] = {
    "setting": one.setting,
    "contender": one.name,
    "state": one.state,
    "reason": one.reason,
    "options": dict(one.options),
    "seeds": len(one.runs),
    "one_model": one.single_model,
    "lr": tuning.lr if tuning else None,
    "runner_up": tuning.runner_up if tuning else None,
    "edge": tuning.edge if tuning else None,
  }
  measures = evaluations.compared_measures([one])
  names = dict.fromkeys([criterion.measure, *measures, "loss", *_CLIENTS])
  for name in names:
    for kind in get_args(Score):
      value = ranking.column(one, name, kind)
      row[f"{name}_{kind}"], row[f"{name}_{kind}_std"] = _finite(value.mean), _finite(value.std)
      if name == criterion.measure:
        values = {str(run.seed): _finite(ranking.reading(run, name, kind)) for run in one.runs}
        row[f"{name}_{kind}_seeds"] = values
  row |= {name: _finite(ranking.column(one, name).mean) for name in _COSTS}
  row["examples"] = _finite(ranking.trained_on(one).mean)
  reached = ranking.cost_to_target(one, criterion, target)
  row |= {"target": _finite(target), "target_seeds": reached.seeds}
  costs = {"rounds": reached.rounds, "bytes": reached.bytes, "simulated_seconds": reached.seconds}
  row |= {f"target_{name}": _finite(value) for name, value in costs.items()}
  row["gain"] = _finite(ranking.gain(one, criterion))
  return row | {"command": one.command, "folder": str(one.path) if one.path else None}


def _flatten(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  for name, value in row.items():
    if isinstance(value, dict):
      yield from _flatten(value, f"{prefix}{name}_")
    else:
      yield f"{prefix}{name}", "" if value is None else value


def _text(value: float) -> float | str:
  return value if math.isfinite(value) else ""


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None
