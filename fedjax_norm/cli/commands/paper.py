"""Trains the models of the papers' tables and figures, and checks whether the claims hold."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fedjax_norm import client_mapping
from fedjax_norm.cli import app, train
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.text_tables import as_csv, as_markdown
from fedjax_norm.errors import UserError
from fedjax_norm.papers import (
  client_costs,
  paper_000_isolated_norms,
  paper_001_edgify,
  paper_003_split_learning,
  paper_004_noniid_quagmire,
)
from fedjax_norm.papers.paper_flags import PaperFlags
from fedjax_norm.papers.tables import Claim, Table
from fedjax_norm.plots import bars, base, curves
from fedjax_norm.study import savings
from fedjax_norm.study.cells import Result, Results, load_sources, run_cell
from fedjax_norm.training.storage.atomic_files import write_atomic
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.terminal.tables import human_seconds

_PAPERS = (
  paper_000_isolated_norms,
  paper_001_edgify,
  paper_003_split_learning,
  paper_004_noniid_quagmire,
)
TABLES = {table.name: table for paper in _PAPERS for table in paper.TABLES}

# Runs of two clients use at most two devices. A fixed number makes results independent of the
# machine.
_HOST_DEVICES = 2


def choose(names: str) -> list[Table]:
  """Returns the tables of ``--tables``: names, or beginnings of names up to a dot, or all.

  Raises:
    UserError: a name is unknown.
  """
  chosen: list[str] = []
  for name in names.split(","):
    matching = [table for table in TABLES if name == "all" or f"{table}.".startswith(f"{name}.")]
    if not matching:
      raise UserError(
        f"--tables has {name!r}; choose all, names from {', '.join(TABLES)}, or the part of a name "
        "before a dot, such as 004.6 or 003."
      )
    chosen += matching
  return [TABLES[name] for name in dict.fromkeys(chosen)]


def judge(claim: Claim, values: Mapping[str, float], num_tested: int = 0) -> str:
  """Returns a text: whether a claim holds, and by how many points or for which ratios.

  Args:
    claim: the claim.
    values: label of a cell -> value of the claim's measure; NaN if the run diverged.
    num_tested: number of test images; with 0, the standard error is not considered.
  """
  if not set(claim.labels) <= values.keys():
    return "not in the text"
  claimed = [values[label] for label in claim.labels]
  if not all(map(math.isfinite, claimed)):
    return f"undecided: {'accuracy is lost' if claim.measure == 'saving' else 'a run diverged'}"
  margin = claim.margin(*claimed)
  verdict = "holds" if margin > 0 else "does not hold"
  if claim.measure not in ("top1", "loss"):
    return f"{verdict}: {', '.join(f'{value:.2f}' for value in claimed)} times"
  verdict += f" by {abs(margin):.2f} points"
  if claim.measure == "top1" and num_tested:
    share = np.mean(claimed) / 100
    # Two standard errors, in points, of the difference of two accuracies on random test images.
    if abs(margin) < 200 * math.sqrt(2 * share * (1 - share) / num_tested):
      verdict += ", less than two standard errors of the test set"
  return verdict


def our_values(table: Table, results: Results, measure: str) -> dict[str, float]:
  """Returns label of a cell -> our value of a measure (one of those that ``Claim`` lists)."""
  top1 = {cell.label: results[cell.name].percent("top1") for cell in table.cells}
  match measure:
    case "top1":
      return top1
    case "loss":
      return {c.label: top1[c.reference] - top1[c.label] for c in table.cells if c.reference}
    case "client_flops" | "sent":
      return client_costs.ratios(_client_costs(table, results), measure)
    case _:
      saved = [savings.measure(degree, results, table.tolerance) for degree in table.degrees]
      scout = {f"{s.label}, SkewScout": s.scout for s in saved}
      return scout | {f"{s.label}, Oracle": s.oracle for s in saved}


def _client_costs(table: Table, results: Results) -> dict[str, list[client_costs.ClientCost]]:
  return client_costs.costs_of_runs({cell.label: results[cell.name] for cell in table.cells})


def render(table: Table, scale: str, results: Results) -> str:
  """Returns the results of a table as Markdown, with its claims and its notes."""
  lines = [f"## {_heading(table, '; ')} ({table.name})", ""]
  if scale in table.settings:
    lines += [f"Scale `{scale}`: {table.settings[scale]}", ""]
  lines.append(_accuracies(table, results))
  if table.degrees:
    lines += ["", savings.render(table.degrees, results, table.tolerance)]
  if table.figure in client_costs.MEASURES:
    lines += ["", client_costs.render(_client_costs(table, results))]
  num_tested = results[table.cells[0].name].num_tested
  verdicts = [
    [
      claim.text,
      judge(claim, our_values(table, results, claim.measure), num_tested),
      judge(claim, table.paper_values(claim.measure)),
    ]
    for claim in table.claims
  ]
  claims = as_markdown(["claim", "our values", "the paper's values"], verdicts, left=3)
  return "\n".join([*lines, "", claims, "", *(f"- {note}" for note in table.notes)])


def _heading(table: Table, separator: str) -> str:
  return separator.join(filter(None, (table.title, table.scale_note)))


def _accuracies(table: Table, results: Results) -> str:
  """Returns each cell's top-1 and, if the table has losses, its loss, otherwise its top-5."""
  if any(cell.reference for cell in table.cells):
    second, paper, ours = "loss", table.paper_values("loss"), our_values(table, results, "loss")
  else:
    second, paper = "top-5", {cell.label: cell.paper[1] for cell in table.cells if cell.paper}
    ours = {cell.label: results[cell.name].percent("top5") for cell in table.cells}
  columns = [table.paper_values("top1"), our_values(table, results, "top1"), paper, ours]
  labels = [cell.label for cell in table.cells]
  rows = [[label, *(_format(c.get(label, math.nan)) for c in columns)] for label in labels]
  head = ["cell", "top-1, paper", "top-1, ours", f"{second}, paper", f"{second}, ours"]
  return as_markdown(head, rows)


def _format(value: float) -> str:
  return f"{value:.2f}" if math.isfinite(value) else "-"


def draw(table: Table, results: Results, folder: Path) -> None:
  """Draws a table's figure, if it has one; of client costs, also writes the points as CSV."""
  path, title = folder / f"{table.name}.png", _heading(table, "\n")
  if table.degrees:
    base.save(savings.draw(table.degrees, results, table.tolerance, title), path)
  elif table.figure == "curves":
    base.save(_curves(table, results, title), path)
  elif table.figure == "bars":
    base.save(_bars(table, results, title), path)
  elif table.figure in client_costs.MEASURES:
    runs = _client_costs(table, results)
    base.save(client_costs.draw(runs, table.figure, title), path)
    write_atomic(path.with_suffix(".csv"), client_costs.as_csv(runs).encode())


def _curves(table: Table, results: Results, title: str) -> Figure:
  """Draws accuracy against training images, because a round has more images in some runs."""
  runs = {}
  for cell in table.cells:
    rows = results[cell.name].rows
    seen = np.cumsum([row["examples"] for row in rows]).tolist()
    runs[cell.label] = [{**row, "round": n} for row, n in zip(rows, seen, strict=True)]
  figure = curves.compare_figure(runs, title)
  figure.axes[0].set_xlabel("training images seen")
  return figure


def _bars(table: Table, results: Results, title: str) -> Figure:
  heights = our_values(table, results, "top1")
  parts = [label.rpartition(", ")[::2] for label in heights]
  groups, names = (list(dict.fromkeys(part)) for part in zip(*parts, strict=True))
  series = {n: [heights.get(f"{g}, {n}", math.nan) for g in groups] for n in names}
  return bars.bars_figure(groups, series, title, "top-1 in %")


def results_csv(tables: Sequence[Table], results: Results) -> str:
  """Returns CSV text with a line per cell of each table; accuracies in percent, empty if none."""
  head = ["table", "cell", "paper_top1", "paper_top5", "top1", "top5", "loss", "rounds", "seconds"]
  rows = []
  for table in tables:
    for cell in table.cells:
      result = results[cell.name]
      paper = cell.paper or (math.nan, math.nan)
      values = [*paper, result.percent("top1"), result.percent("top5"), result.sent]
      *accuracies, sent = (value if math.isfinite(value) else "" for value in values)
      others = [(result.summary or {}).get(name, "") for name in head[6:]]
      rows.append([table.name, cell.label, *accuracies, *others, sent, cell.name])
  return as_csv([*head, "bytes", "folder"], rows)


def with_data_dir(config: Config, data_dir: str | None) -> Config:
  """Returns the flags of a run with ``--data_dir``, if the run reads its data from files.

  Raises:
    UserError: the run reads a folder or a CSV index below ``--data_dir``, which is None.
  """
  kind, _, path = config.data.partition(":")
  if kind in ("folder", "csv"):
    if data_dir is None:
      raise UserError(f"the data {config.data!r} is in the folder --data_dir; set --data_dir.")
    return dataclasses.replace(config, data=f"{kind}:{Path(data_dir).expanduser() / path}")
  generated = kind in ("digits", "identities")
  return config if generated else dataclasses.replace(config, data_dir=data_dir)


def main(options: PaperFlags) -> None:
  """Runs the cells of the tables in ``--tables``, and writes the results into ``--workdir``."""
  tables = [table.at(options.scale) for table in choose(options.tables)]
  cells = {cell.name: cell for table in tables for cell in table.cells}
  client_mapping.use_host_devices(_HOST_DEVICES)
  app.set_compilation_cache(options.compilation_cache)
  common = {"host_devices": _HOST_DEVICES, "seed": options.seed, "progress": options.progress}
  configs = {name: cell.config(options.scale, **common) for name, cell in cells.items()}
  for config in configs.values():  # errors in the flags are raised before data is read
    train.check(config)
  located = {name: with_data_dir(config, options.data_dir) for name, config in configs.items()}
  if options.data_dir is not None and located == configs:
    raise UserError(
      "--data_dir has no effect because the selected runs read no data from files; drop it."
    )
  sources = load_sources(located)
  folder = Path(options.workdir or f"runs/paper-{options.scale}").expanduser()
  saved = {"scale": options.scale, "seed": options.seed}
  with RunFolder.open(folder, saved, wait=options.wait_for_workdir):
    results: dict[str, Result] = {}
    for number, (name, config) in enumerate(located.items(), 1):
      results[name] = run_cell(name, config, sources[name], folder / name, cells[name].make_program)
      _print_run(f"{number}/{len(located)}", tables, name, results[name])
    text = "\n\n".join(render(table, options.scale, results) for table in tables)
    write_atomic(folder / "results.md", f"{text}\n".encode())
    write_atomic(folder / "results.csv", results_csv(tables, results).encode())
    for table in tables:
      draw(table, results, folder)
    print(f"\n{text}\n\nwritten: {folder}/results.md and results.csv")


def _print_run(progress: str, tables: Sequence[Table], name: str, result: Result) -> None:
  """Prints a run's accuracies next to the paper's, a line per table that contains the run."""
  for table in tables:
    for cell in table.cells:
      if cell.name == name:
        ours = _pair((result.percent("top1"), result.percent("top5")))
        line = f"{progress} {table.name} {cell.label}: {ours}"
        line += f" (paper {_pair(cell.paper)})" if cell.paper else ""
        seconds = result.summary["seconds"] if result.summary else 0.0
        print(f"{line}, {human_seconds(seconds)}", flush=True)


def _pair(accuracies: tuple[float, float]) -> str:
  return " / ".join(map(_format, accuracies))


def launch() -> None:
  """Runs ``experiments.paper`` with the flags of the command line, and exits."""
  app.run_plain(main, PaperFlags)
