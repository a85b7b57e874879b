"""The tables and figures of papers 000 and 001: ``python -m experiments.paper --scale=small``.

Every cell is a run of SSGD or FedAvg in a folder of its own below ``--workdir``; equal cells of
several tables are one run, and a runner that was stopped goes on where it was. At the end the
paper's accuracy stands beside ours, with what the paper claims and whether it held, in
``results.md``, ``results.csv`` and a picture for each figure.
"""

import contextlib
import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app as absl_app
from absl import flags, logging

from experiments import app, build, paper_000, paper_001, training
from experiments.flags import Config, PaperFlags, define, parse
from experiments.tables import Cell, Claim, Table
from fedjax_norm import nodes
from fedjax_norm.data.examples import Source
from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.training import plots
from fedjax_norm.training.run_folder import Row, RunFolder, write_atomic
from fedjax_norm.training.table import human_seconds

TABLES = {table.name: table for table in (*paper_000.TABLES, *paper_001.TABLES)}

# Some runs have two clients; one number for all, so that their bits do not depend on the machine.
_HOST_DEVICES = 2


class Result(NamedTuple):
  """What a run ended with.

  Attributes:
    summary: as in ``summary.json``; None if it diverged.
    rows: its evaluations.
    tested: images that its accuracy is a mean over.
  """

  summary: dict[str, Any] | None
  rows: list[Row]
  tested: int

  def percent(self, name: str) -> float:
    """An accuracy in percent, NaN if the run diverged."""
    return 100 * self.summary[name] if self.summary else math.nan


Results = Mapping[str, Result]
"""Of cells, by their names."""


def choose(names: str) -> list[Table]:
  """The tables that ``--tables`` names.

  Raises:
    UserError: an unknown one.
  """
  chosen = list(TABLES) if names == "all" else names.split(",")
  for name in chosen:
    if name not in TABLES:
      raise UserError(f"--tables has {name!r}; choose from {', '.join(TABLES)}, or all.")
  return [TABLES[name] for name in dict.fromkeys(chosen)]


def run_cell(cell: Cell, config: Config, source: Source, path: Path) -> Result:
  """Runs a cell, goes on with it, or reads what it ended with.

  Args:
    cell: the cell.
    config: its flags.
    source: the data they name.
    path: of its folder.

  Raises:
    UserError: the folder holds another run.
  """
  settled, task = training.settler(source)(config)
  tested = len(source.test.labels)
  if not (path / "summary.json").exists():
    program = cell.prepare(settled)(task)
    try:
      with contextlib.redirect_stdout(io.StringIO()):  # a line a cell is enough
        training.run_seed(settled, task, program, path)
    except DivergedError as error:
      print(f"{cell.name}: {error}", file=sys.stderr)
  with training.open_folder(path, settled) as folder:
    return Result(folder.read_summary(), folder.rows(), tested)


def judge(claim: Claim, accuracies: Mapping[str, float], tested: int = 0) -> str:
  """Whether a claim holds, and by how much.

  Args:
    claim: the claim.
    accuracies: top-1 in percent by label; NaN for a run that diverged.
    tested: images that each is a mean over; 0 tells nothing of chance.
  """
  values = [accuracies[label] for label in claim.labels]
  if not all(map(math.isfinite, values)):
    return "cannot be told, for a run diverged"
  margin = claim.margin(*values)
  verdict = f"{'held' if margin > 0 else 'did not hold'} by {abs(margin):.2f} points"
  share = np.mean(values) / 100
  # Of a difference of two accuracies, by the choice of test images alone.
  if tested and abs(margin) < 200 * math.sqrt(2 * share * (1 - share) / tested):
    verdict += ", less than two standard errors of the test set"
  return verdict


def render(table: Table, scale: str, results: Results) -> str:
  """A table, its claims and its notes as Markdown."""
  lines = [f"## {table.title} ({table.name})", ""]
  if scale in table.settings:
    lines += [f"Scale `{scale}`: {table.settings[scale]}", ""]
  head = ["cell", "top-1, paper", "top-1, ours", "top-5, paper", "top-5, ours"]
  lines += [_line(head), _line(["---", *["---:"] * 4])]
  for cell in table.cells:
    ours = results[cell.name]
    papers = cell.paper or (math.nan, math.nan)
    figures = [papers[0], ours.percent("top1"), papers[1], ours.percent("top5")]
    lines.append(_line([cell.label, *map(_figure, figures)]))
  ours_top1 = {cell.label: results[cell.name].percent("top1") for cell in table.cells}
  papers_top1 = {cell.label: cell.paper[0] for cell in table.cells if cell.paper}
  tested = results[table.cells[0].name].tested
  lines += ["", _line(["claim", "ours", "the paper's own figures"]), _line(["---"] * 3)]
  for claim in table.claims:
    theirs = judge(claim, papers_top1) if papers_top1 else "not in the text"
    lines.append(_line([claim.text, judge(claim, ours_top1, tested), theirs]))
  return "\n".join([*lines, "", *(f"- {note}" for note in table.notes)])


def _line(cells: Sequence[str]) -> str:
  return f"| {' | '.join(cells)} |"


def _figure(value: float) -> str:
  return f"{value:.2f}" if math.isfinite(value) else "-"


def draw(table: Table, results: Results, folder: Path) -> None:
  """Draws a figure's learning curves over the images that were seen, not over unequal rounds."""
  runs = {}
  for cell in table.cells:
    rows = results[cell.name].rows
    seen = np.cumsum([row["examples"] for row in rows]).tolist()
    runs[cell.label] = [{**row, "round": n} for row, n in zip(rows, seen, strict=True)]
  figure = plots.compare_figure(runs, table.title)
  figure.axes[0].set_xlabel("training images seen")
  plots.save(figure, folder / f"{table.name}.png")


def as_csv(tables: Sequence[Table], results: Results) -> str:
  """A line a cell of each table; accuracies in percent, empty where there is none."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  head = ["table", "cell", "paper_top1", "paper_top5", "top1", "top5", "loss", "rounds", "seconds"]
  writer.writerow([*head, "folder"])
  for table in tables:
    for cell in table.cells:
      result = results[cell.name]
      summary = result.summary or {}
      ours = [result.percent(name) for name in ("top1", "top5")] if summary else ["", ""]
      others = [summary.get(name, "") for name in ("loss", "rounds", "seconds")]
      writer.writerow(
        [table.name, cell.label, *(cell.paper or ("", "")), *ours, *others, cell.name]
      )
  return out.getvalue()


def main(options: PaperFlags) -> None:
  """Runs the cells of the tables that the flags name, and writes the results."""
  tables = choose(options.tables)
  cells = {cell.name: cell for table in tables for cell in table.cells}
  nodes.use_host_devices(_HOST_DEVICES)
  app.keep_compiled(options.compilation_cache)
  common = {"seed": options.seed, "data_dir": options.data_dir, "progress": options.progress}
  configs = {
    name: cell.config(options.scale, host_devices=_HOST_DEVICES, **common)
    for name, cell in cells.items()
  }
  for name, config in configs.items():  # a wrong seed, before data is read
    cells[name].prepare(build.in_rounds(config, config.clients or 10, 10**6))
  sources: dict[Any, Source] = {}
  folder = Path(options.workdir or f"runs/paper-{options.scale}").expanduser()
  results: dict[str, Result] = {}
  for number, (name, config) in enumerate(configs.items(), 1):
    data = config.data, config.image_size
    if data not in sources:
      sources[data] = build.make_source(config)
    if not results:  # after what can be wrong with the data
      RunFolder.open(folder, {"scale": options.scale, "seed": options.seed}).close()
    results[name] = run_cell(cells[name], config, sources[data], folder / name)
    _tell(f"{number}/{len(configs)}", tables, name, results[name])
  text = "\n\n".join(render(table, options.scale, results) for table in tables)
  print(f"\n{text}\n\nwritten: {folder}/results.md and results.csv")
  write_atomic(folder / "results.md", f"{text}\n".encode())
  write_atomic(folder / "results.csv", as_csv(tables, results).encode())
  for table in tables:
    if table.figure:
      draw(table, results, folder)


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


def run() -> None:
  """Runs the tables on the command line's flags and exits."""
  define(PaperFlags)

  def guarded(argv: Sequence[str]) -> None:
    def work() -> None:
      if argv[1:]:
        raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
      main(parse(PaperFlags))

    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)
    sys.exit(app.guard(work))

  absl_app.run(guarded, flags_parser=app.parse_flags)


if __name__ == "__main__":
  run()
