"""The tables of a report: the ranking of a setting, and all figures of its contenders."""

import math
from collections.abc import Callable, Sequence

from fedjax_norm.evaluation.measures import measures_of
from fedjax_norm.study import ranking
from fedjax_norm.study.advice import wording
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.report.markup import Cell, Html, copy_button, table
from fedjax_norm.study.results.table import notes
from fedjax_norm.study.statistics import Estimate
from fedjax_norm.training.terminal.tables import human_bytes, human_seconds

_READINGS: tuple[tuple[ranking.Score, str], ...] = (
  ("best", "at best validation"),
  ("last", "last"),
  ("mean", "mean of last"),
)
_CLIENTS = {
  "clients_top1": "mean over clients",
  "clients_top1_min": "worst client",
  "unseen_top1": "unseen clients",
  "unseen_top1_min": "worst unseen client",
}
Column = tuple[str, Callable[[Contender], Cell]]
_NONE = Cell("", math.nan)


def ranked_table(contenders: Sequence[Contender], criterion: Criterion) -> Html:
  """Returns the contenders of a setting, the best first, with what decides between them."""
  order = ranking.ranked(contenders, criterion)
  target = ranking.target(contenders, criterion)
  rank = {one.name: place for place, one in enumerate(order, 1)}
  form = criterion.form
  reading = dict(_READINGS)[criterion.score]

  def to_target(one: Contender) -> Cell:
    reached = ranking.cost_to_target(one, criterion, target)
    cell = _bytes(reached.bytes)
    some = f" ({reached.seeds}/{len(one.runs)} seeds)" if reached.seeds < len(one.runs) else ""
    return Cell(cell.content + some, cell.value) if reached.seeds else _NONE

  columns: list[Column] = [
    ("rank", lambda one: _rank(rank[one.name], ranking.has_score(one, criterion))),
    ("contender", lambda one: Cell(one.name)),
    ("command", lambda one: Cell(copy_button(one.command) if one.command else "")),
    (f"{form.title}, {reading}", lambda one: _score(one, criterion)),
    ("worst client", lambda one: _share(ranking.column(one, "clients_top1_min"))),
    ("unseen clients", lambda one: _share(ranking.column(one, "unseen_top1"))),
    ("bytes", lambda one: _bytes(ranking.sent(one))),
    (f"bytes to {form.format(target) if math.isfinite(target) else 'target'}", to_target),
    ("one model", lambda one: Cell("yes" if one.single_model else "no")),
    ("rate (runner-up)", _rate),
    ("notes", lambda one: Cell("; ".join(notes(one, criterion)))),
  ]
  best = 0 if order and ranking.has_score(order[0], criterion) else -1
  return _table(columns, order, best)


def full_table(contenders: Sequence[Contender], criterion: Criterion) -> Html:
  """Returns means and standard deviations of all measures and costs of a setting's contenders."""
  found = {name for one in contenders for run in one.runs for name in run.summary}
  columns: list[Column] = [("contender", lambda one: Cell(one.name))]
  for name, measure in measures_of(found).items():
    for kind, title in _READINGS:
      columns.append((f"{measure.title}, {title}", _column(name, kind, measure.format)))
  for name, title in _CLIENTS.items():
    columns += [
      (f"{title}, {when}", _column(name, kind, "{:.2%}".format)) for kind, when in _READINGS
    ]
  target = ranking.target(contenders, criterion)

  def reached(one: Contender) -> ranking.Reached:
    return ranking.cost_to_target(one, criterion, target)

  columns += [
    ("test loss", _column("loss", "last", "{:.4f}".format)),
    ("seeds", lambda one: _number(len(one.runs) or math.nan)),
    ("rounds", _column("rounds", "last", "{:,.0f}".format)),
    ("round trips", _column("round_trips", "last", "{:,.0f}".format)),
    ("bytes up", lambda one: _bytes(ranking.column(one, "bytes_up").mean)),
    ("bytes down", lambda one: _bytes(ranking.column(one, "bytes_down").mean)),
    ("training examples", _column("examples", "last", "{:,.0f}".format)),
    ("wall-clock time", lambda one: _time(ranking.column(one, "seconds").mean)),
    ("simulated time", lambda one: _time(ranking.column(one, "simulated_seconds").mean)),
    ("rounds to target", lambda one: _number(reached(one).rounds)),
    ("simulated time to target", lambda one: _time(reached(one).seconds)),
  ]
  return _table(columns, ranking.ranked(contenders, criterion))


def _table(columns: Sequence[Column], order: Sequence[Contender], highlighted: int = -1) -> Html:
  rows = [[make(one) for _, make in columns] for one in order]
  return table([head for head, _ in columns], rows, highlighted)


def _column(
  name: str, kind: ranking.Score, form: Callable[[float], str]
) -> Callable[[Contender], Cell]:
  return lambda one: _estimate(ranking.column(one, name, kind), form)


def _estimate(value: Estimate, form: Callable[[float], str]) -> Cell:
  if not value.seeds:
    return _NONE
  spread = f" ± {form(value.std)}" if value.seeds > 1 else ""
  return Cell(form(value.mean) + spread, value.mean)


def _score(one: Contender, criterion: Criterion) -> Cell:
  score = ranking.score(one, criterion)
  ranked = ranking.has_score(one, criterion)
  return Cell(wording.value(criterion, score), score.mean) if ranked else _NONE


def _rank(place: int, ranked: bool) -> Cell:
  return Cell(str(place) if ranked else "-", float(place))


def _share(value: Estimate) -> Cell:
  return _estimate(value, "{:.1%}".format)


def _number(value: float) -> Cell:
  return Cell(f"{value:,.0f}", value) if math.isfinite(value) else _NONE


def _bytes(value: float) -> Cell:
  return Cell(human_bytes(round(value)), value) if math.isfinite(value) else _NONE


def _time(value: float) -> Cell:
  return Cell(human_seconds(value), value) if math.isfinite(value) else _NONE


def _rate(one: Contender) -> Cell:
  if one.tuning is None:
    return _NONE
  second = f" ({one.tuning.runner_up:g})" if one.tuning.runner_up is not None else ""
  return Cell(f"{one.tuning.lr:g}{second}", one.tuning.lr)
