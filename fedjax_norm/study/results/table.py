"""The ranked table of contenders for the terminal."""

import math
from collections.abc import Sequence
from typing import get_args

from fedjax_norm.study import ranking
from fedjax_norm.study.advice import wording
from fedjax_norm.study.advice.recommendation import Recommendation, as_text
from fedjax_norm.study.advice.remarks import client_accuracies
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.statistics import Estimate
from fedjax_norm.training.terminal.tables import columns_table, human_bytes

_CLIENT_GAP = 0.1  # a worst client further below the mean over clients is noted
_UNSEEN_GAP = 0.05  # so are clients without training further below those that trained
LEGEND = """\
best: test value at the evaluation with the best validation value; last: last value; mean: mean of
the last values. worst: accuracy of the worst client; unseen: accuracy on clients that took no part
in training. bytes: up and down, of all clients; to: until the target was reached (by how many
seeds). 1 model: whether there is one model to serve. lr (2nd): learning rate (the second best)."""


def render(contenders: Sequence[Contender], criterion: Criterion) -> str:
  """Returns a ranked table for each setting, without the columns that would be empty.

  The legend below the tables says what the columns are.
  """
  settings = ranking.by_setting(contenders)
  tables = []
  for setting, members in settings.items():
    title = f"{setting}\n" if len(settings) > 1 else ""
    tables.append(title + _table(members, criterion))
  return "\n\n".join([*tables, LEGEND])


def render_answer(contenders: Sequence[Contender], recommendation: Recommendation) -> str:
  """Returns the tables and the recommendation in words."""
  return f"{render(contenders, recommendation.criterion)}\n\n{as_text(recommendation)}"


def notes(contender: Contender, criterion: Criterion) -> list[str]:
  """Returns what to bear in mind about a contender, each in a few words."""
  if contender.state != "done":
    return [contender.state]
  found = []
  if contender.tuning and contender.tuning.edge:
    found.append(f"{contender.tuning.edge} rate")
  if len(contender.runs) == 1:
    found.append("one seed")
  if ranking.still_improves(contender, criterion):
    found.append("still improves")
  if ranking.guesses(contender):
    found.append("guesses")
  mean, least = (ranking.column(contender, f"clients_top1{end}").mean for end in ("", "_min"))
  if mean - least > _CLIENT_GAP:
    named = client_accuracies(contender)
    worst = min(named, key=lambda name: (named[name], name)) if named else ""
    found.append(f"weak client {worst}".rstrip())
  if mean - ranking.column(contender, "unseen_top1").mean > _UNSEEN_GAP:
    found.append("weak on unseen clients")
  return found


def _table(contenders: Sequence[Contender], criterion: Criterion) -> str:
  target = ranking.target(contenders, criterion)
  others = [kind for kind in get_args(ranking.Score) if kind != criterion.score]
  head = ["#", "contender", f"{criterion.form.title}, {criterion.score}"]
  head += [*others, "worst", "unseen", "bytes"]
  head += [f"to {criterion.form.format(target)}" if math.isfinite(target) else "to target"]
  head += ["1 model", "lr (2nd)", "note"]
  rows: list[list[str]] = []
  footnotes: dict[str, str] = {}
  for rank, one in enumerate(ranking.ranked(contenders, criterion), 1):
    ranked = ranking.has_score(one, criterion)
    score = ranking.score(one, criterion)
    readings = (ranking.column(one, criterion.measure, kind) for kind in others)
    reached = ranking.cost_to_target(one, criterion, target)
    cells = [str(rank) if ranked else "-", one.name]
    cells.append(wording.value(criterion, score) if ranked else "-")
    cells += [_cell(estimate, criterion.form.form) for estimate in readings]
    cells += [
      _cell(ranking.column(one, name), ".1%") for name in ("clients_top1_min", "unseen_top1")
    ]
    cells += [_bytes(ranking.sent(one)), _bytes(reached.bytes)]
    if 0 < reached.seeds < len(one.runs):
      cells[-1] += f" ({reached.seeds}/{len(one.runs)})"
    marks = [footnotes.setdefault(n, str(len(footnotes) + 1)) for n in notes(one, criterion)]
    cells += ["yes" if one.single_model else "no", _rate(one), " ".join(marks)]
    rows.append(cells)
  used = [i for i in range(len(head)) if any(row[i] not in ("-", "") for row in rows)]
  text = columns_table([head[i] for i in used], [[row[i] for i in used] for row in rows])
  notes_text = "; ".join(f"{mark} {note}" for note, mark in footnotes.items())
  return f"{text}\n{notes_text}".rstrip()


def _cell(value: Estimate, form: str) -> str:
  return format(value.mean, form) if value.seeds else "-"


def _bytes(value: float) -> str:
  return human_bytes(round(value)) if math.isfinite(value) else "-"


def _rate(contender: Contender) -> str:
  if contender.tuning is None:
    return "-"
  second = contender.tuning.runner_up
  return f"{contender.tuning.lr:g}" + (f" ({second:g})" if second is not None else "")
