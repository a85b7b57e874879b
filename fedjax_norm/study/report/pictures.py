"""The pictures of a report, from the contenders of one setting."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from fedjax_norm.cli.seeds import summarize_rows
from fedjax_norm.plots import confusion, curves, study
from fedjax_norm.plots.base import Rows, shortened
from fedjax_norm.study import evaluations, ranking
from fedjax_norm.study.contender import Contender, SeedRun
from fedjax_norm.study.ranking import Criterion, Score

NAMES = ("pareto", "curves", "clients", "recall", "confusion", "search")
_MOST_NAMED = 12
_TIME = "simulated_seconds"


class Picture(NamedTuple):
  """A picture of a report.

  Attributes:
    name: one of ``NAMES``, with which the name of its file begins.
    heading: heading of its section.
    caption: how to read it.
    figure: the picture.
  """

  name: str
  heading: str
  caption: str
  figure: Figure


def pictures(contenders: Sequence[Contender], criterion: Criterion) -> list[Picture]:
  """Returns the pictures of a setting: those for which the runs have the numbers."""
  finished = [c for c in ranking.ranked(contenders, criterion) if ranking.has_score(c, criterion)]
  if not finished:
    return []
  front = {c.name for c in ranking.pareto_front(finished, criterion)}
  # Those on the front and the best ones are named; all pictures use this order for their colours.
  first = {c.name for c in finished[:_MOST_NAMED]} | front
  shown = sorted(finished, key=lambda c: c.name not in first)
  drawn = [
    _against_bytes(shown, criterion, front, len(first)),
    _over_rounds(shown, criterion, len(first)),
    _by_client(finished, criterion.score),
    _by_class(finished, criterion.score),
    _confusion(finished, criterion.score),
    _search(contenders, criterion),
  ]
  return [picture for picture in drawn if picture]


def _against_bytes(
  shown: Sequence[Contender], criterion: Criterion, front: set[str], named: int
) -> Picture | None:
  points = []
  for one in shown:
    score, sent = ranking.score(one, criterion), ranking.sent(one)
    if score.seeds and sent > 0:
      points.append(study.Point(one.name, sent, score.mean, score.std, one.name in front))
  if not points:
    return None
  title = f"{criterion.form.title} against communication"
  figure = study.pareto_figure(points, title, criterion.form, named)
  caption = (
    "Each point is the mean over the seeds, with the standard deviation as a bar; further left is "
    "cheaper. Contenders on the Pareto front (bold, black outline) are those that no other one "
    f"beats without sending more; bytes that differ by less than {ranking.SAME_BYTES:.0%} count as "
    "the same."
  )
  return Picture("pareto", "Score against communication", caption + _others(shown, named), figure)


def _over_rounds(shown: Sequence[Contender], criterion: Criterion, named: int) -> Picture | None:
  runs = {one.name: _mean_rows(one.runs) for one in shown}
  runs = {name: rows for name, rows in runs.items() if any(criterion.measure in r for r in rows)}
  if not runs:
    return None
  title = f"{criterion.form.title} on the test examples"
  panels = ("round", "bytes", _TIME)
  figure = curves.compare_figure(
    runs, title, measure=criterion.measure, against=panels, named=named
  )
  caption = (
    "Test values at each evaluation: means over the seeds, with bands of one standard deviation. "
    "The names carry the last value."
  )
  return Picture("curves", "Learning curves", caption + _others(shown, named), figure)


def _others(shown: Sequence[Contender], named: int) -> str:
  return f" {len(shown) - named} contenders are grey." if len(shown) > named else ""


def _mean_rows(runs: Iterable[SeedRun]) -> Rows:
  """Returns the means over the seeds at each evaluation, with the column ``bytes``.

  Several seeds have columns of standard deviations; a single one has none.
  """
  rows, *others = [run.rows for run in runs]
  rows = summarize_rows([rows, *others]) if others else rows
  return [{**row, "bytes": row["bytes_up"] + row["bytes_down"]} for row in rows]


def _by_client(finished: Sequence[Contender], score: Score) -> Picture | None:
  """Draws the accuracy of each client, by its name; one that never trained has a column of its own.

  The clients that do not train are drawn with the seed, so that a client can have both columns.
  Clients without a name hold other examples with every seed, so each seed has its own columns.
  """
  table = evaluations.by_client(finished, score)
  if not table.rows:
    return None
  clients = table.columns
  names = [f"{shortened(c.name, 22)} (unseen)" if c.unseen else c.name for c in clients]
  unseen = [i for i, client in enumerate(clients) if client.unseen]
  label = "test accuracy (%)"
  figure = _shares_figure(table, names, "Accuracy by client", label, unseen)
  means = "" if any(client.seed >= 0 for client in clients) else ", as means over the seeds"
  when = _upper(evaluations.when(score))
  caption = f"{when}{means}; each contender's worst client is marked. "
  caption += "Unseen clients took no part in training." if unseen else ""
  return Picture("clients", "Accuracy by client", caption.strip(), figure)


def _by_class(finished: Sequence[Contender], score: Score) -> Picture | None:
  table = evaluations.by_class(finished, score)
  if not table.columns:
    return None
  figure = _shares_figure(table, table.columns, "Recall by class", "recall (%)")
  caption = (
    "The recall of a class is the share of its test examples that are recognized. Means over the "
    f"seeds, {evaluations.when(score)}; each contender's worst class is marked."
  )
  return Picture("recall", "Recall by class", caption, figure)


def _shares_figure(
  table: evaluations.Table,
  columns: Sequence[str],
  title: str,
  label: str,
  marked: Collection[int] = (),
) -> Figure:
  rows = [one.name for one in table.rows]
  values = np.array([[value.mean for value in row] for row in table.values])
  return study.shares_figure(rows, columns, values, title, label, marked)


def _confusion(finished: Sequence[Contender], score: Score) -> Picture | None:
  """Draws the confusion matrix of the best contender, summed over its seeds."""
  best = finished[0]
  found = [evaluations.evaluation_of(run, score) for run in best.runs]
  found = [evaluation for evaluation in found if "confusion" in evaluation]
  if not found:
    return None
  names = [one["name"] for one in found[0]["classes"]]
  counts = np.sum([evaluation["confusion"] for evaluation in found], axis=0)
  figure = confusion.confusion_figure(counts, names, f"Confusion of {best.name}")
  when = evaluations.when(score)
  caption = f"Test examples of the best contender {when}, summed over the seeds."
  return Picture("confusion", "Confusion matrix of the best contender", caption, figure)


def _search(contenders: Sequence[Contender], criterion: Criterion) -> Picture | None:
  searches = [
    study.Search(
      one.name,
      [(trial.lr, trial.steps, trial.value) for trial in one.tuning.trials],
      one.tuning.lr,
      one.tuning.runner_up,
    )
    for one in ranking.ranked(contenders, criterion)
    if one.tuning and one.tuning.trials
  ]
  if not searches:
    return None
  # A comparison can rank a study by another measure than that of its search.
  tuned = next(one.tuning.measure for one in contenders if one.tuning)
  form = criterion.form if tuned == criterion.measure else Criterion(tuned).form
  figure = study.search_figure(searches, "Search for the learning rate", form)
  caption = (
    "Scores on the validation examples. Lines connect runs of equal length, the longer the darker; "
    "the star is the chosen rate, the ring the second best, a cross a rate that diverged."
  )
  return Picture("search", "Search for the learning rates", caption, figure)


def _upper(text: str) -> str:
  return text[:1].upper() + text[1:]
