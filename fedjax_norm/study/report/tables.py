"""The tables of a report: the ranking of a setting, and all figures of its contenders."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from fedjax_norm.study import evaluations, ranking
from fedjax_norm.study.advice import wording
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.report import markup
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
_NOTES = (
  "lowest rate, highest rate: the learning rate is the last one of the search at that end, so a "
  "better one may lie beyond. still improves: more rounds would probably give a better score. "
  "guesses: with at least one seed, the model is no better than one that ignores its input. weak "
  "client: this client is far below the mean over the clients. unstable: the last value is more "
  "than 5 points (or 5%) worse than the one in the best round by validation."
)


def ranked_table(contenders: Sequence[Contender], criterion: Criterion) -> Html:
  """Returns the contenders of a setting, the best first, with what decides between them.

  Below the table, a click shows what its columns mean.
  """
  order = ranking.ranked(contenders, criterion)
  target = ranking.target(contenders, criterion)
  rank = {one.name: place for place, one in enumerate(order, 1)}
  form = criterion.form
  scored = f"{form.title}, {dict(_READINGS)[criterion.score]}"
  moment, when = evaluations.moment(criterion.score), evaluations.when(criterion.score)
  to = f"bytes to {form.format(target) if math.isfinite(target) else 'target'}"

  def to_target(one: Contender) -> Cell:
    reached = ranking.cost_to_target(one, criterion, target)
    cell = _bytes(reached.bytes)
    some = f" ({reached.seeds}/{len(one.runs)} seeds)" if reached.seeds < len(one.runs) else ""
    return Cell(cell.content + some, cell.value) if reached.seeds else _NONE

  columns: list[Column] = [
    ("rank", lambda one: _rank(rank[one.name], ranking.has_score(one, criterion))),
    ("contender", lambda one: Cell(one.name)),
    ("command", lambda one: Cell(copy_button(one.command) if one.command else "")),
    (scored, lambda one: _score(one, criterion)),
    ("worst client", lambda one: _share(evaluations.worst_client(one, criterion.score)[1])),
    ("unseen clients", lambda one: _share(ranking.column(one, "unseen_top1", moment))),
    ("bytes", lambda one: _bytes(ranking.sent(one))),
    (to, to_target),
    ("one model", lambda one: Cell("yes" if one.single_model else "no")),
    ("learning rate (second best)", _rate),
    ("notes", lambda one: Cell("; ".join([*notes(one, criterion), *filter(None, [one.reason])]))),
  ]
  top1 = (
    " Top-1 is the share of examples whose class is predicted." if form.title == "top-1" else ""
  )
  meanings = {
    scored: f"{wording.criterion_text(criterion)}{top1} After ± is the standard deviation over the "
    "seeds.",
    "worst client": f"accuracy of the client with the lowest one, {when}: the accuracy of each "
    "client is averaged over the seeds before the lowest one is chosen. Clients without a name "
    "hold other examples with every seed; then it is the mean of each seed's lowest accuracy.",
    "unseen clients": f"mean accuracy of the clients that took no part in training, {when}.",
    "bytes": "what all clients of a run send and receive together, as mean over the seeds.",
    to: "the bytes until the first evaluation that reached this value, which is the target; the "
    "score, at another evaluation, can be below it.",
    "one model": "whether one model serves all clients; otherwise, each client has its own.",
    "learning rate (second best)": "the rate that the search chose on validation examples.",
    "notes": _NOTES,
  }
  best = 0 if order and ranking.has_score(order[0], criterion) else -1
  return _table(columns, order, best, meanings)


def full_table(contenders: Sequence[Contender], criterion: Criterion) -> Html:
  """Returns means and standard deviations of all measures and costs of a setting's contenders."""
  columns: list[Column] = [("contender", lambda one: Cell(one.name))]
  for name, measure in evaluations.compared_measures(contenders).items():
    for kind, title in _READINGS:
      columns.append((f"{measure.title}, {title}", _column(name, kind, measure.format)))
  for name, title in _CLIENTS.items():
    columns += [
      (f"{title}, {when}", _column(name, kind, "{:.2%}".format)) for kind, when in _READINGS
    ]
  target = ranking.target(contenders, criterion)

  def reached(one: Contender) -> ranking.Reached:
    return ranking.cost_to_target(one, criterion, target)

  if criterion.measure != "loss":
    columns.append(("test loss, last", _column("loss", "last", "{:.4f}".format)))
  columns += [
    ("seeds", lambda one: _number(len(one.runs) or math.nan)),
    ("rounds", _column("rounds", "last", "{:,.0f}".format)),
    ("round trips", _column("round_trips", "last", "{:,.0f}".format)),
    ("bytes up", lambda one: _bytes(ranking.column(one, "bytes_up").mean)),
    ("bytes down", lambda one: _bytes(ranking.column(one, "bytes_down").mean)),
    ("training examples", lambda one: _number(ranking.trained_on(one).mean)),
    ("wall-clock time", lambda one: _time(ranking.column(one, "seconds").mean)),
    ("simulated time", lambda one: _time(ranking.column(one, "simulated_seconds").mean)),
    ("rounds to target", lambda one: _number(reached(one).rounds)),
    ("simulated time to target", lambda one: _time(reached(one).seconds)),
  ]
  return _table(columns, ranking.ranked(contenders, criterion))


def client_table(contenders: Sequence[Contender], criterion: Criterion) -> Html:
  """Returns the accuracy of each client with each contender, as drawn in a picture."""
  found = evaluations.by_client(ranking.ranked(contenders, criterion), criterion.score)
  names = [f"{one.name} (unseen)" if one.unseen else one.name for one in found.columns]
  return _shares(found, names)


def class_table(contenders: Sequence[Contender], criterion: Criterion) -> Html:
  """Returns the recall of each class with each contender, as drawn in a picture."""
  found = evaluations.by_class(ranking.ranked(contenders, criterion), criterion.score)
  return _shares(found, found.columns)


def _shares(found: evaluations.Table, names: Sequence[str]) -> Html:
  rows = zip(found.rows, found.values, strict=True)
  cells = [[Cell(one.name), *map(_share, values)] for one, values in rows]
  return table(["contender", *names], cells)


def _table(
  columns: Sequence[Column],
  order: Sequence[Contender],
  highlighted: int = -1,
  meanings: Mapping[str, str] = MappingProxyType({}),
) -> Html:
  """Returns a table without the columns that would be empty, and the meanings of the others."""
  made = {head: [make(one) for one in order] for head, make in columns}
  made = {head: cells for head, cells in made.items() if any(cell.content for cell in cells)}
  whole = table(list(made), list(zip(*made.values(), strict=True)), highlighted)
  pairs = {head: meanings[head] for head in made if head in meanings}
  return markup.join(
    [whole, markup.details("What the columns mean", markup.pairs(pairs))] if pairs else [whole]
  )


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
