"""The ranked table of contenders for the terminal."""

import math
import textwrap
from collections.abc import Sequence
from typing import get_args

from fedjax_norm.study import evaluations, ranking
from fedjax_norm.study.advice import wording
from fedjax_norm.study.advice.recommendation import Recommendation, as_text
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.statistics import Estimate
from fedjax_norm.training.terminal.tables import columns_table, human_bytes

_CLIENT_GAP = 0.1  # a worst client further below the mean over clients is noted
_UNSEEN_GAP = 0.05  # so are clients without training further below those that trained
_WIDTH = 120  # a wider table has numbers for its notes
_MEANINGS = {
  "best": "test value in the round with the best validation value",
  "last": "test value in the last round",
  "mean": "mean of the last test values",
  "±": "standard deviation over the seeds",
  "worst": "lowest accuracy of a client, as mean over the seeds, in the round of the score",
  "unseen": "accuracy of clients that took no part in training, in the round of the score",
  "bytes": "what all clients of a run send and receive together",
  "to": "bytes until an evaluation first reached this value (by how many of the seeds)",
  "1 model": "whether one model serves all clients",
  "lr (2nd)": "chosen learning rate (the second best)",
}


def render(contenders: Sequence[Contender], criterion: Criterion) -> str:
  """Returns a ranked table for each setting, without the columns that would be empty.

  The legend below the tables says what the columns are that are shown.
  """
  settings = ranking.by_setting(contenders)
  tables: list[str] = []
  shown: set[str] = set()
  for setting, members in settings.items():
    title = f"{setting}\n" if len(settings) > 1 else ""
    text, heads = _table(members, criterion)
    tables.append(title + text)
    shown |= {"to" if head.startswith("to ") else head for head in heads} | {criterion.score}
    shown |= {"±"} if "±" in text else set()
  legend = "; ".join(f"{name}: {text}" for name, text in _MEANINGS.items() if name in shown)
  return "\n\n".join([*tables, textwrap.fill(f"{legend}.", 100, break_on_hyphens=False)])


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
  if ranking.unstable(contender, criterion):
    found.append("unstable")
  moment = evaluations.moment(criterion.score)
  mean = ranking.column(contender, "clients_top1", moment).mean
  worst, least = evaluations.worst_client(contender, criterion.score)
  if mean - least.mean > _CLIENT_GAP:
    found.append(f"weak client {worst}".rstrip())
  if mean - ranking.column(contender, "unseen_top1", moment).mean > _UNSEEN_GAP:
    found.append("weak on unseen clients")
  return found


def _table(contenders: Sequence[Contender], criterion: Criterion) -> tuple[str, list[str]]:
  """Returns the table of a setting and the heads of its columns.

  Notes are words if the table is at most ``_WIDTH`` wide, else numbers that are explained below.
  """
  target = ranking.target(contenders, criterion)
  others = [kind for kind in get_args(ranking.Score) if kind != criterion.score]
  head = ["#", "contender", f"{criterion.form.title}, {criterion.score}"]
  head += [*others, "worst", "unseen", "bytes"]
  head += [f"to {criterion.form.format(target)}" if math.isfinite(target) else "to target"]
  head += ["1 model", "lr (2nd)", "note"]
  rows: list[list[str]] = []
  for rank, one in enumerate(ranking.ranked(contenders, criterion), 1):
    ranked = ranking.has_score(one, criterion)
    score = ranking.score(one, criterion)
    readings = (ranking.column(one, criterion.measure, kind) for kind in others)
    reached = ranking.cost_to_target(one, criterion, target)
    cells = [str(rank) if ranked else "-", one.name]
    cells.append(wording.value(criterion, score) if ranked else "-")
    cells += [_cell(estimate, criterion.form.form) for estimate in readings]
    unseen = ranking.column(one, "unseen_top1", evaluations.moment(criterion.score))
    worst = evaluations.worst_client(one, criterion.score)[1]
    cells += [_cell(estimate, ".1%") for estimate in (worst, unseen)]
    cells += [_bytes(ranking.sent(one)), _bytes(reached.bytes)]
    if 0 < reached.seeds < len(one.runs):
      cells[-1] += f" ({reached.seeds}/{len(one.runs)})"
    cells += ["yes" if one.single_model else "no", _rate(one), "; ".join(notes(one, criterion))]
    rows.append(cells)
  used = [i for i in range(len(head)) if any(row[i] not in ("-", "") for row in rows)]
  heads = [head[i] for i in used]
  text = columns_table(heads, [[row[i] for i in used] for row in rows])
  if max(map(len, text.splitlines())) <= _WIDTH:
    return text, heads
  footnotes: dict[str, str] = {}
  for row in rows:
    words = row[-1].split("; ") if row[-1] else []
    row[-1] = " ".join(footnotes.setdefault(word, str(len(footnotes) + 1)) for word in words)
  text = columns_table(heads, [[row[i] for i in used] for row in rows])
  below = "; ".join(f"{mark} {note}" for note, mark in footnotes.items())
  return f"{text}\n{textwrap.fill(below, 100, break_on_hyphens=False)}".rstrip(), heads


def _cell(value: Estimate, form: str) -> str:
  return format(value.mean, form) if value.seeds else "-"


def _bytes(value: float) -> str:
  return human_bytes(round(value)) if math.isfinite(value) else "-"


def _rate(contender: Contender) -> str:
  if contender.tuning is None:
    return "-"
  second = contender.tuning.runner_up
  return f"{contender.tuning.lr:g}" + (f" ({second:g})" if second is not None else "")
