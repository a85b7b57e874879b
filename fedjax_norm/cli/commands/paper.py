"""The tables and figures of the papers: ``python -m experiments.paper --scale=small``.

Every cell is a run in a folder of its own below ``--workdir``; equal cells of several tables are
one run, and a runner that was stopped goes on where it was. At the end the paper's accuracy stands
beside ours, with what the paper claims and whether it held, in ``results.md``, ``results.csv`` and
a picture for each figure.
"""

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
from fedjax_norm.papers import efforts, paper_000, paper_001, paper_003, paper_004
from fedjax_norm.papers.options import PaperFlags
from fedjax_norm.papers.tables import Claim, Table
from fedjax_norm.plots import bars, base, curves
from fedjax_norm.study import savings
from fedjax_norm.study.cells import Result, Results, load_sources, run_cell
from fedjax_norm.training.storage.atomic_files import write_atomic
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.terminal.tables import human_seconds

_PAPERS = (paper_000, paper_001, paper_003, paper_004)
TABLES = {table.name: table for paper in _PAPERS for table in paper.TABLES}

# Some runs have two clients; one number for all, so that their bits do not depend on the machine.
_HOST_DEVICES = 2


def choose(names: str) -> list[Table]:
  """The tables that ``--tables`` names, each by its name or by what that has before a dot.

  Raises:
    UserError: an unknown one.
  """
  chosen: list[str] = []
  for name in names.split(","):
    parts = [known for known in TABLES if name == "all" or f"{known}.".startswith(f"{name}.")]
    if not parts:
      raise UserError(
        f"--tables has {name!r}; choose from {', '.join(TABLES)}, or give what several of "
        "them have before a dot, such as 004.6 or 003, or all."
      )
    chosen += parts
  return [TABLES[name] for name in dict.fromkeys(chosen)]


def judge(claim: Claim, figures: Mapping[str, float], tested: int = 0) -> str:
  """Whether a claim holds, and by how many points; of times, how many they are.

  Args:
    claim: the claim.
    figures: of its measure, by label; NaN for a run that diverged.
    tested: images that each is a mean over; 0 tells nothing of chance.
  """
  if not set(claim.labels) <= figures.keys():
    return "not in the text"
  values = [figures[label] for label in claim.labels]
  if not all(map(math.isfinite, values)):
    lost = claim.measure == "saving"
    return f"cannot be told, for {'accuracy is lost' if lost else 'a run diverged'}"
  margin = claim.margin(*values)
  verdict = "held" if margin > 0 else "did not hold"
  if claim.measure not in ("top1", "loss"):
    return f"{verdict}: {', '.join(f'{value:.2f}' for value in values)} times"
  verdict += f" by {abs(margin):.2f} points"
  share = np.mean(values) / 100
  # Of a difference of two accuracies, by the choice of test images alone.
  if (
    tested
    and claim.measure == "top1"
    and abs(margin) < 200 * math.sqrt(2 * share * (1 - share) / tested)
  ):
    verdict += ", less than two standard errors of the test set"
  return verdict


def figures_of(table: Table, results: Results, measure: str) -> dict[str, float]:
  """Our figures of a measure (see ``Claim``) by label."""
  top1 = {cell.label: results[cell.name].percent("top1") for cell in table.cells}
  match measure:
    case "top1":
      return top1
    case "loss":
      return {c.label: top1[c.base] - top1[c.label] for c in table.cells if c.base}
    case "client_flops" | "sent":
      return efforts.times(_efforts(table, results), measure)
    case _:
      found = [savings.measure(degree, results, table.tolerance) for degree in table.degrees]
      pairs = {f"{s.label}, SkewScout": s.scout for s in found}
      return pairs | {f"{s.label}, Oracle": s.oracle for s in found}


def _efforts(table: Table, results: Results) -> dict[str, list[efforts.Spent]]:
  return efforts.of({cell.label: results[cell.name] for cell in table.cells})


def render(table: Table, scale: str, results: Results) -> str:
  """A table, as it is at a scale, its claims and its notes as Markdown."""
  lines = [f"## {_heading(table, '; ')} ({table.name})", ""]
  if scale in table.settings:
    lines += [f"Scale `{scale}`: {table.settings[scale]}", ""]
  with_losses = any(cell.base for cell in table.cells)
  lines.append(_losses(table, results) if with_losses else _top5(table, results))
  if table.degrees:
    lines += ["", savings.render(table.degrees, results, table.tolerance)]
  if table.figure in efforts.AXES:
    lines += ["", efforts.render(_efforts(table, results))]
  tested = results[table.cells[0].name].tested
  judged = [
    [
      claim.text,
      judge(claim, figures_of(table, results, claim.measure), tested),
      judge(claim, table.papers(claim.measure)),
    ]
    for claim in table.claims
  ]
  claims = as_markdown(["claim", "ours", "the paper's own figures"], judged, left=3)
  return "\n".join([*lines, "", claims, "", *(f"- {note}" for note in table.notes)])


def _heading(table: Table, between: str) -> str:
  return between.join(filter(None, (table.title, table.here)))


def _top5(table: Table, results: Results) -> str:
  rows = []
  for cell in table.cells:
    ours, papers = results[cell.name], cell.paper or (math.nan, math.nan)
    figures = [papers[0], ours.percent("top1"), papers[1], ours.percent("top5")]
    rows.append([cell.label, *map(_figure, figures)])
  return as_markdown(["cell", "top-1, paper", "top-1, ours", "top-5, paper", "top-5, ours"], rows)


def _losses(table: Table, results: Results) -> str:
  pairs = [(table.papers(m), figures_of(table, results, m)) for m in ("top1", "loss")]
  sides = [side for pair in pairs for side in pair]
  labels = [cell.label for cell in table.cells]
  rows = [[label, *(_figure(side.get(label, math.nan)) for side in sides)] for label in labels]
  return as_markdown(["cell", "top-1, paper", "top-1, ours", "loss, paper", "loss, ours"], rows)


def _figure(value: float) -> str:
  return f"{value:.2f}" if math.isfinite(value) else "-"


def draw(table: Table, results: Results, folder: Path) -> None:
  """Draws what the table says is a figure; one of what clients spend has its points as CSV too."""
  path, title = folder / f"{table.name}.png", _heading(table, "\n")
  if table.degrees:
    base.save(savings.draw(table.degrees, results, table.tolerance, title), path)
  elif table.figure == "curves":
    base.save(_curves(table, results, title), path)
  elif table.figure == "bars":
    base.save(_bars(table, results, title), path)
  elif table.figure in efforts.AXES:
    runs = _efforts(table, results)
    base.save(efforts.draw(runs, table.figure, title), path)
    write_atomic(path.with_suffix(".csv"), efforts.as_csv(runs).encode())


def _curves(table: Table, results: Results, title: str) -> Figure:
  """Learning curves over the images that were seen, not over unequal rounds."""
  runs = {}
  for cell in table.cells:
    rows = results[cell.name].rows
    seen = np.cumsum([row["examples"] for row in rows]).tolist()
    runs[cell.label] = [{**row, "round": n} for row, n in zip(rows, seen, strict=True)]
  figure = curves.compare_figure(runs, title)
  figure.axes[0].set_xlabel("training images seen")
  return figure


def _bars(table: Table, results: Results, title: str) -> Figure:
  heights = figures_of(table, results, "top1")
  parts = [label.rpartition(", ")[::2] for label in heights]
  groups, names = (list(dict.fromkeys(part)) for part in zip(*parts, strict=True))
  series = {n: [heights.get(f"{g}, {n}", math.nan) for g in groups] for n in names}
  return bars.bars_figure(groups, series, title, "top-1 in %")


def results_csv(tables: Sequence[Table], results: Results) -> str:
  """A line a cell of each table; accuracies in percent, empty where there is none."""
  head = ["table", "cell", "paper_top1", "paper_top5", "top1", "top5", "loss", "rounds", "seconds"]
  rows = []
  for table in tables:
    for cell in table.cells:
      result = results[cell.name]
      papers = cell.paper or (math.nan, math.nan)
      figures = [*papers, result.percent("top1"), result.percent("top5"), result.sent]
      *told, sent = (figure if math.isfinite(figure) else "" for figure in figures)
      others = [(result.summary or {}).get(name, "") for name in head[6:]]
      rows.append([table.name, cell.label, *told, *others, sent, cell.name])
  return as_csv([*head, "bytes", "folder"], rows)


def place(config: Config, data_dir: str | None) -> Config:
  """A cell's flags with ``--data_dir`` where its data needs it: files are looked for below it.

  Raises:
    UserError: there is no folder for the files.
  """
  kind, _, path = config.data.partition(":")
  if kind in ("folder", "csv"):
    if data_dir is None:
      raise UserError(f"{config.data!r} is looked for below --data_dir; give that folder.")
    return dataclasses.replace(config, data=f"{kind}:{Path(data_dir).expanduser() / path}")
  made = kind in ("digits", "identities")
  return config if made else dataclasses.replace(config, data_dir=data_dir)


def main(options: PaperFlags) -> None:
  """Runs the cells of the tables that the flags name, and writes the results."""
  tables = [table.at(options.scale) for table in choose(options.tables)]
  cells = {cell.name: cell for table in tables for cell in table.cells}
  client_mapping.use_host_devices(_HOST_DEVICES)
  app.set_compilation_cache(options.compilation_cache)
  configs = {
    name: cell.config(
      options.scale, host_devices=_HOST_DEVICES, seed=options.seed, progress=options.progress
    )
    for name, cell in cells.items()
  }
  for config in configs.values():  # a wrong seed, before data is read
    train.check(config)
  placed = {name: place(config, options.data_dir) for name, config in configs.items()}
  if options.data_dir is not None and placed == configs:
    raise UserError("--data_dir does nothing here, where all data is generated; drop it.")
  sources = load_sources(placed)
  folder = Path(options.workdir or f"runs/paper-{options.scale}").expanduser()
  # After what can be wrong with the data.
  saved = {"scale": options.scale, "seed": options.seed}
  with RunFolder.open(folder, saved, wait=options.wait_for_workdir):
    results: dict[str, Result] = {}
    for number, (name, config) in enumerate(placed.items(), 1):
      results[name] = run_cell(name, config, sources[name], folder / name, cells[name].maker)
      _tell(f"{number}/{len(placed)}", tables, name, results[name])
    text = "\n\n".join(render(table, options.scale, results) for table in tables)
    write_atomic(folder / "results.md", f"{text}\n".encode())
    write_atomic(folder / "results.csv", results_csv(tables, results).encode())
    for table in tables:
      draw(table, results, folder)
    print(f"\n{text}\n\nwritten: {folder}/results.md and results.csv")


def _tell(progress: str, tables: Sequence[Table], name: str, result: Result) -> None:
  """Prints a run's accuracies, beside the paper's for each cell that the run is."""
  for table in tables:
    for cell in table.cells:
      if cell.name == name:
        ours, papers = (result.percent("top1"), result.percent("top5")), cell.paper
        line = f"{progress} {table.name} {cell.label}: " + _pair(ours)
        line += f" (paper {_pair(papers)})" if papers else ""
        seconds = result.summary["seconds"] if result.summary else 0.0
        print(f"{line}, {human_seconds(seconds)}", flush=True)


def _pair(accuracies: tuple[float, float]) -> str:
  return " / ".join(map(_figure, accuracies))


def launch() -> None:
  """Runs the binary on the command line's flags, and exits."""
  app.run_plain(main, PaperFlags)
