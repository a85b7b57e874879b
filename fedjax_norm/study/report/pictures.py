"""The pictures of a report, from the contenders of one setting."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from fedjax_norm.cli.seeds import summarize_rows
from fedjax_norm.plots import confusion, curves, study
from fedjax_norm.plots.base import Rows, shortened
from fedjax_norm.study import ranking
from fedjax_norm.study.contender import Contender, SeedRun
from fedjax_norm.study.ranking import Criterion

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
    _by_client(finished),
    _by_class(finished),
    _confusion(finished),
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
    "beats without sending more."
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


def _by_client(finished: Sequence[Contender]) -> Picture | None:
  """Draws the accuracy of each client, by its name; one that never trained has a column of its own.

  The clients that do not train are drawn with the seed, so that a client can have both columns.
  Clients without a name hold other examples with every seed, so each seed has its own columns.
  """
  several = len({run.seed for one in finished for run in one.runs}) > 1

  def entries(run: SeedRun) -> dict[tuple[bool, int, int, str], float]:
    found = {}
    for one in (run.evaluation or {}).get("clients", []):
      # A name stays, but the ids of the clients that train depend on which ones do not.
      key = (-1, -1, one["name"])
      if not one["name"]:
        name = f"client {one['id']}" + (f", seed {run.seed}" if several else "")
        key = (run.seed, one["id"], name)
      found[one["unseen"], *key] = _number(one["top1"])
    return found

  rows, columns, values = _means(finished, entries)
  if not rows:
    return None
  names = [f"{shortened(name, 22)} (unseen)" if unseen else name for unseen, *_, name in columns]
  unseen = [i for i, (unseen, *_) in enumerate(columns) if unseen]
  label = "test accuracy (%)"
  figure = study.shares_figure(rows, names, values, "Accuracy by client", label, unseen)
  caption = (
    "At the last evaluation, as means over the seeds; each contender's worst client is marked. "
  )
  if any(seed >= 0 for _, seed, *_ in columns):
    caption = "At the last evaluation; each contender's worst client is marked. "
  caption += "Unseen clients took no part in training." if unseen else ""
  return Picture("clients", "Accuracy by client", caption.strip(), figure)


def _by_class(finished: Sequence[Contender]) -> Picture | None:
  def entries(run: SeedRun) -> dict[str, float]:
    return {c["name"]: _number(c["recall"]) for c in (run.evaluation or {}).get("classes", [])}

  rows, columns, values = _means(finished, entries)
  if not rows:
    return None
  figure = study.shares_figure(rows, columns, values, "Recall by class", "recall (%)")
  caption = (
    "The recall of a class is the share of its test examples that are recognized. Means over the "
    "seeds, at the last evaluation; each contender's worst class is marked."
  )
  return Picture("recall", "Recall by class", caption, figure)


def _means(
  finished: Sequence[Contender], entries: Callable[[SeedRun], dict[Any, float]]
) -> tuple[list[str], list[Any], np.ndarray]:
  """Returns the means over the seeds of what ``entries`` finds in the runs.

  Returns:
    The names of the contenders with entries, the keys of the entries, and [contenders, keys] means.
  """
  found = [[entries(run) for run in one.runs] for one in finished]
  columns = list(dict.fromkeys(key for runs in found for run in runs for key in run))
  columns = sorted(columns) if columns and isinstance(columns[0], tuple) else columns

  def mean(runs: Sequence[Mapping[Any, float]], key: Any) -> float:
    values = [run[key] for run in runs if np.isfinite(run.get(key, np.nan))]
    return float(np.mean(values)) if values else np.nan

  table = {
    one.name: [mean(runs, key) for key in columns]
    for one, runs in zip(finished, found, strict=True)
    if any(runs)
  }
  return list(table), columns, np.array(list(table.values()))


def _confusion(finished: Sequence[Contender]) -> Picture | None:
  """Draws the confusion matrix of the best contender, summed over its seeds."""
  best = finished[0]
  evaluations = [run.evaluation or {} for run in best.runs]
  found = [evaluation for evaluation in evaluations if "confusion" in evaluation]
  if not found:
    return None
  names = [one["name"] for one in found[0]["classes"]]
  counts = np.sum([evaluation["confusion"] for evaluation in found], axis=0)
  figure = confusion.confusion_figure(counts, names, f"Confusion of {best.name}")
  caption = "Test examples of the best contender at the last evaluation, summed over the seeds."
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


def _number(value: float | None) -> float:
  return np.nan if value is None else value
