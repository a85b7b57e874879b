"""The results of the papers' tables as text: one table, all of them, and RESULTS.md."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import EngFormatter

from fedjax_norm.cli.text_tables import as_csv, as_markdown
from fedjax_norm.evaluation.measures import MEASURES
from fedjax_norm.papers import client_costs
from fedjax_norm.papers.claims import paper_verdict, verdict
from fedjax_norm.papers.gaps import GAPS
from fedjax_norm.papers.results import CellResult, TableResult, ended_degrees, fitted, outcomes
from fedjax_norm.papers.tables import Table
from fedjax_norm.study import savings
from fedjax_norm.study.statistics import Estimate
from fedjax_norm.study.verdicts import Margin, Verdict
from fedjax_norm.training.terminal.tables import human_seconds

HOW = """\
A verdict is about the runs that stand beside it. At scale `small` these are other models, images
and lengths than the paper's, so that *held* says that the effect is there too, and *not held*
does not refute the paper.

A claim compares cells by paired seeds: runs with the same seed have the same partition and the
same initialization. The number behind a verdict is the margin, by which the values exceed what
the claim asks for, and its interval, each end of which errs in at most 5% of cases. Of a claim
with several comparisons it is that of the weakest one, and the upper end is wider, because one
comparison that fails by chance would be enough to deny the claim (Bonferroni's correction). The
interval has two parts: the deviation over the seeds (Student's t) and the error of the test set
(from the answers to each test example; where these are not known, as if models erred
independently of each other). *Held*: the interval is above 0, for every comparison of the claim.
*Not held*: it is below 0 for one of them. *Undecided*: the rest; with three seeds, intervals are
wide. "As good as" is a test of equivalence with the margin that the claim names. Nothing is
decided with fewer than three seeds, at scale `smoke`, if a run diverged (but if a claim says that
it does), or where the baseline is within the error of guessing. Of mean IoUs only the deviation
over the seeds is known. The papers' figures are of single runs, so that theirs is the
error of the test set alone. Of many verdicts a few are wrong by chance. Tables that share a cell
share its runs, whose time counts in each of them."""


def render(table: Table, result: TableResult) -> str:
  """Returns the results of a table as Markdown, with its claims and its notes."""
  lines = [f"## {table.heading(result.scale)} ({table.name})", ""]
  if result.scale in table.settings:
    lines += [f"Scale `{result.scale}`: {table.settings[result.scale]}", ""]
  lines += [_how_measured(result), "", _accuracies(table, result)]
  if degrees := ended_degrees(table, result):
    lines += ["", savings.render(degrees, outcomes(table, result), table.tolerance)]
  if table.figure in client_costs.MEASURES:
    lines += ["", _costs(table, result)]
  claims = [
    [one.text, text_of(verdict(table, one, result)), text_of(paper_verdict(table, one))]
    for one in table.claims
  ]
  lines += ["", as_markdown(["claim", "our values", "the paper's values"], claims, left=3), ""]
  lines += [f"- {note}" for note in table.all_notes(result.scale)]
  lines += [f"- {label}: {cell.reason}" for label, cell in result.cells.items() if cell.reason]
  return "\n".join(lines)


def text_of(verdict: Verdict | None) -> str:
  """Returns a verdict with its margin and the interval; that of None says that there is none."""
  if verdict is None:
    return "not in the text"
  reason = f": {verdict.reason}" if verdict.reason else ""
  margin = f" ({_margin(verdict.margin)})" if verdict.margin else ""
  return f"{verdict.state}{reason}{margin}"


def results_csv(tables: Sequence[tuple[Table, TableResult]]) -> str:
  """Returns CSV text with a line per run of each cell; accuracies in percent."""
  shares = list(dict.fromkeys(name for table, _ in tables for name in table.measures))
  head = ["table", "cell", *(f"paper_{name}" for name in shares), "state", "seed", *shares, "bytes"]
  rows = []
  for table, result in tables:
    for cell in table.cells:
      found = result.cells[cell.label]
      printed = dict(zip(table.measures, cell.paper or (math.nan, math.nan), strict=True))
      paper = ["" if math.isnan(printed.get(name, math.nan)) else printed[name] for name in shares]
      empty: dict[Any, dict[str, float]] = {"": {}}
      for seed, run in (found.runs or empty).items():
        values = [run.get(name, "") for name in (*shares, "bytes")]
        rows.append([table.name, cell.label, *paper, found.state, seed, *values, cell.name])
  return as_csv([*head, "folder"], rows)


def all_results(tables: Mapping[str, Table], results: Sequence[TableResult]) -> str:
  """Returns RESULTS.md: all recorded results, and the tables without any.

  Args:
    tables: name -> table.
    results: the recorded results; those of tables that do not exist any more are left out.
  """
  known = sorted(
    (fitted(tables[one.table], one) for one in results if one.table in tables),
    key=lambda one: (list(tables).index(one.table), one.scale),
  )
  lines = [
    "# Results",
    "",
    "The papers' tables as measured here. This page is made by `python -m experiments.paper "
    "--record=FOLDER` from the files in that folder and from nothing else.",
    "",
    HOW,
    "",
    "## Summary",
    "",
    _summary(tables, known),
    "",
    _missing(tables, known),
  ]
  for one in known:
    lines += ["", render(tables[one.table], one)]
  return "\n".join([*lines, "", *_gaps()]) + "\n"


def _gaps() -> list[str]:
  """Returns the lines of the list of what the papers have and the project has not."""
  lines = [
    "## What the papers have and this project does not have",
    "",
    "All algorithms of the papers' experiments are built. Apart from the tables that were not "
    "measured, this is missing:",
  ]
  for paper, rows in GAPS.items():
    lines += [
      "",
      as_markdown([f"paper {paper}", "what is missing, and why"], map(list, rows), left=2),
    ]
  return lines


def _summary(tables: Mapping[str, Table], results: Sequence[TableResult]) -> str:
  """Returns a table with a line per recorded result: what was measured, and the verdicts."""
  rows = []
  for one in results:
    counts = Counter(verdict(tables[one.table], c, one).state for c in tables[one.table].claims)
    seconds = math.fsum(cell.seconds for cell in one.cells.values())
    states = [str(counts[state]) for state in ("held", "not held", "undecided")]
    cells = f"{one.measured} of {len(one.cells)}"
    rows.append([one.table, one.scale, cells, str(one.seeds), human_seconds(seconds), *states])
  head = ["table", "scale", "cells", "seeds", "time", "held", "not held", "undecided"]
  return as_markdown(head, rows, left=2)


def _missing(tables: Mapping[str, Table], results: Sequence[TableResult]) -> str:
  """Returns a list of the tables that were not measured, with their number of claims."""
  measured = {one.table for one in results}
  names = [name for name in tables if name not in measured]
  if not names:
    return "All tables were measured."
  papers: dict[str, list[str]] = {}
  for name in names:
    papers.setdefault(name.partition(".")[0], []).append(name)
  count = sum(len(tables[name].claims) for name in names)
  lines = (f"- {paper}: {', '.join(sorted(of))}" for paper, of in papers.items())
  return "\n".join([f"Not measured, with {count} claims:", "", *lines])


def _how_measured(result: TableResult) -> str:
  seconds = math.fsum(cell.seconds for cell in result.cells.values())
  made = [result.made[name] for name in ("date", "commit", "machine", "versions")]
  seeds = "1 seed" if result.seeds == 1 else f"{result.seeds} seeds"
  return (
    f"{seeds}, {human_seconds(seconds)} of training; {', '.join(made)}. `{result.made['command']}`"
  )


def _margin(margin: Margin) -> str:
  if margin.is_ratio:
    mean, low, high = (math.exp(value) for value in margin[:3])
    return f"{mean:.2f} times as much as the claim asks for, {low:.2f} to {high:.2f}"
  return f"{margin.mean:+.2f} points, {margin.low:+.2f} to {margin.high:+.2f}"


def _accuracies(table: Table, result: TableResult) -> str:
  """Returns each cell's first measure and, if the table has losses, its loss, or its second one."""
  rows = []
  losses = any(cell.reference for cell in table.cells)
  tuned = any(cell.rates for cell in table.cells)
  for cell in table.cells:
    paper, ours = cell.paper or (math.nan, math.nan), result.cells[cell.label]
    values = [_format(paper[0]), _estimate(ours, table.measures[0])]
    if losses:
      reference = result.cells[cell.reference] if cell.reference else None
      loss = _loss(table, reference, ours) if reference else math.nan
      values += [_format(table.paper_loss(cell)), _format(loss)]
    else:
      values += [_format(paper[1]), _estimate(ours, table.measures[1])]
    rows.append([cell.label, *values, *([ours.rate or "-"] if tuned else [])])
  first, second = (MEASURES[name].title for name in table.measures)
  second = "loss" if losses else second
  head = ["cell", *(f"{name}, {whose}" for name in (first, second) for whose in ("paper", "ours"))]
  return as_markdown([*head, *(["rate"] if tuned else [])], rows)


def _loss(table: Table, reference: CellResult, cell: CellResult) -> float:
  first, second = (one.over_seeds(table.measures[0]).mean for one in (reference, cell))
  return first - second


def _costs(table: Table, result: TableResult) -> str:
  """Returns the clients' costs at the common accuracy as a Markdown table."""
  first = table.cells[0].label
  head, rows = ["at the common accuracy"], []
  for title, _ in client_costs.MEASURES.values():
    head += [title, f"relative to {first}"]
  for cell in table.cells:
    values = [cell.label]
    for measure, (_, unit) in client_costs.MEASURES.items():
      mean = result.cells[cell.label].over_seeds(measure).mean
      ratio = mean / result.cells[first].over_seeds(measure).mean
      values += [EngFormatter(unit, places=2)(mean) if math.isfinite(mean) else "-", _format(ratio)]
    rows.append(values)
  return as_markdown(head, rows)


def _estimate(cell: CellResult, figure: str) -> str:
  found: Estimate = cell.over_seeds(figure)
  if not found.seeds:
    return "diverged" if cell.state == "diverged" else "-"
  return f"{found.mean:.2f}" + (f" ± {found.std:.2f}" if found.seeds > 1 else "")


def _format(value: float) -> str:
  return f"{value:.2f}" if math.isfinite(value) else "-"
