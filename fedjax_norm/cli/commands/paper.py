"""Runs the tables and figures of the papers: ``python -m experiments.paper --table=000.1``.

Every row of a table is trained with several seeds; rows with equal options share their runs. The
same command resumes what was stopped. ``results.md``, ``results.csv`` and one plot per figure show
our accuracies next to the papers', and which of the papers' claims are held, not held or undecided.
"""

import dataclasses
import json
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from filelock import FileLock

from fedjax_norm import client_mapping
from fedjax_norm.cli import app
from fedjax_norm.cli.compilation_cache import set_compilation_cache
from fedjax_norm.errors import LostError, UserError
from fedjax_norm.invocation import command
from fedjax_norm.papers import expected_time, figures, plan, report
from fedjax_norm.papers.paper_flags import PaperFlags
from fedjax_norm.papers.registry import TABLES, choose, choose_cells
from fedjax_norm.papers.results import TableResult, as_json, collect, from_json, merged
from fedjax_norm.papers.tables import Cell, Table
from fedjax_norm.plots import base
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.planning.plan import LOCK, PLAN, Plan, read_plan, write_plan
from fedjax_norm.study.results.study_files import read_study
from fedjax_norm.study.running import crew, workers
from fedjax_norm.training.storage.atomic_files import make_folder, write_atomic, write_json
from fedjax_norm.training.storage.run_folder import read_made_by
from fedjax_norm.training.terminal.tables import columns_table, human_seconds, summary_table

_FEW = 5  # tables of which --list shows cells and claims


def main(flags: PaperFlags) -> None:
  """Runs the cells of the tables in ``--table``, and writes the results into ``--workdir``.

  Raises:
    UserError: options are wrong.
    LostError: some of the cells have failed.
  """
  if flags.data_dir:
    flags = dataclasses.replace(flags, data_dir=str(Path(flags.data_dir).expanduser().resolve()))
  if flags.table is None and not flags.list:
    raise UserError("set --table, for example --table=000.1; --list shows the tables.")
  tables = choose("all" if flags.table is None else flags.table)
  cells = choose_cells(tables, flags.cells)
  folder = Path(flags.workdir or f"runs/paper-{flags.scale}").expanduser()
  if flags.list:
    print(_list(tables, cells, flags))
  elif worker := workers.this_worker():
    made = _make_plan(tables, cells, flags, worker.number_of_workers, folder)
    worker.report_plan()
    workers.work(_selected(made, cells), folder, worker.until)
  else:
    _run(tables, cells, flags, folder)


def _run(
  tables: Sequence[Table], cells: Mapping[str, Cell], flags: PaperFlags, folder: Path
) -> None:
  until = None if flags.minutes is None else time.time() + 60 * flags.minutes
  crew.checked_folder(folder, "folder of the papers' runs")
  if flags.record is not None:
    _check_records(Path(flags.record).expanduser())
  count = 1 if flags.minutes == 0 else crew.number_of_workers(flags.workers, len(cells))
  with crew.keeps(folder):
    crew.train(
      folder,
      lambda: _make_plan(tables, cells, flags, count, folder),
      lambda plan: _announce(plan, tables, flags, folder),
      count,
      flags.progress,
      until,
      lambda made: _selected(made, cells),
      "cells",
    )
    _report(tables, cells, flags, folder)


def _selected(made: Plan, cells: Mapping[str, Cell]) -> Plan:
  """Returns a plan with only some of its cells, in their order."""
  known = {cell.name: cell for cell in made.cells}
  return made._replace(cells=tuple(known[name] for name in cells))


def _make_plan(
  tables: Sequence[Table], cells: Mapping[str, Cell], flags: PaperFlags, count: int, folder: Path
) -> Plan:
  """Reads the plan in the folder, adds cells of the tables, and writes it.

  Cells of the tables that the folder has already must be the same, as the report shows them too.
  """
  client_mapping.use_host_devices(1)
  set_compilation_cache(flags.compilation_cache)
  make_folder(folder)
  with FileLock(folder / LOCK):
    stored = read_plan(folder) if (folder / PLAN).exists() else None
    known = {cell.name for cell in stored.cells} if stored else set()
    shown = {k: v for k, v in choose_cells(tables, None).items() if k in known or k in cells}
    made = plan.make(shown, flags, count, stored)
    if made != stored:
      write_plan(folder, made)
  return made


def _announce(made: Plan, tables: Sequence[Table], flags: PaperFlags, folder: Path) -> None:
  left = workers.unfinished(made, folder)
  total = len(made.cells) * made.seeds
  runs = sum(len(list((folder / "runs" / one.name).glob("seed_*/summary.json"))) for one in left)
  runs += (len(made.cells) - len(left)) * made.seeds
  pairs = {
    "tables": ", ".join(table.name for table in tables),
    "scale": flags.scale,
    "seeds": f"{made.seed} to {made.seed + made.seeds - 1}"
    if made.seeds > 1
    else f"only {made.seed}",
    "done": f"{len(made.cells) - len(left)} of {len(made.cells)} cells, {runs} of {total} runs",
    "folder": str(folder),
  }
  print(summary_table("papers", list(pairs.items())), flush=True)


def _report(
  tables: Sequence[Table], cells: Mapping[str, Cell], flags: PaperFlags, folder: Path
) -> None:
  """Writes the results of the tables, records them if asked to, and prints them.

  Raises:
    LostError: some of the cells have failed.
  """
  contenders = {one.name: one for one in read_study(folder)}
  results = [
    (table, collect(table, flags.scale, contenders, _made(table, contenders, flags)))
    for table in tables
  ]
  texts = [(result.measured, report.render(table, result)) for table, result in results]
  text = "\n\n".join(text for _, text in texts)
  with FileLock(folder / LOCK):
    write_atomic(folder / "results.md", f"{report.HOW}\n\n{text}\n".encode())
    write_atomic(folder / "results.csv", report.results_csv(results).encode())
    for table, result in results:
      figure, points = figures.draw(table, result, contenders)
      if figure:
        base.save(figure, folder / f"{table.name}.png")
      if points:
        write_atomic(folder / f"{table.name}.csv", points.encode())
  lines = ["\n\n".join(text for measured, text in texts if measured)]
  lines += ["", f"written: {folder}/results.md and results.csv"]
  states = Counter(contenders[name].state for name in cells)
  if left := states["pending"]:
    lines.append(f"{left} of {len(cells)} cells are not finished; the same command goes on.")
  if flags.record is not None:
    measured = [result for _, result in results if result.seeds]
    lines.append(_record(measured, Path(flags.record).expanduser()))
  print("\n".join(["", *lines]), flush=True)
  if failed := [name for name in cells if contenders[name].state == "failed"]:
    raise LostError(f"{failed[0]} failed: {contenders[failed[0]].reason}")


def _check_records(folder: Path) -> Path:
  """Returns the path of RESULTS.md of a folder with records.

  Raises:
    UserError: there are files that this command did not write, or that are damaged.
  """
  try:
    make_folder(folder)
  except (OSError, UserError) as error:
    raise UserError(f"--record={folder} cannot be made a folder; pass another one.") from error
  read_records(folder)
  page = folder.absolute().parent / "RESULTS.md"
  if page.exists() and "experiments.paper --record" not in page.read_text(errors="replace"):
    raise UserError(f"{page} was not written by --record; pass --record a folder elsewhere.")
  return page


def _record(results: Sequence[TableResult], folder: Path) -> str:
  """Writes results into a folder and RESULTS.md beside it; returns what was written.

  Recorded cells with runs that the new result lacks stay, as does a record with the same values,
  which says when they were measured.
  """
  with FileLock(folder / ".lock"):
    page, written = _check_records(folder), []
    known = {_file_of(one): one for one in read_records(folder)}
    for result in results:
      file = folder / _file_of(result)
      old = known.get(file.name)
      if old:
        new, result = result, merged(result, old)
        if stay := [k for k, one in new.cells.items() if one.runs and one != result.cells[k]]:
          print(f"note: {', '.join(stay)} of {file} stay, because they have runs not made here.")
      if not old or old._replace(made=result.made) != result:
        write_json(file, as_json(result))
        written.append(result.table)
    write_atomic(page, report.all_results(TABLES, read_records(folder)).encode())
  return f"recorded: {', '.join(written) or 'nothing new'}; written: {page}"


def _file_of(result: TableResult) -> str:
  return f"{result.table}.{result.scale}.json"


def read_records(folder: Path) -> list[TableResult]:
  """Returns all results that a folder has.

  Raises:
    UserError: a file is damaged.
  """
  found = []
  for file in sorted(folder.glob("*.json")):
    try:
      found.append(from_json(json.loads(file.read_text())))
    except ValueError as error:
      raise UserError(
        f"{file} is no recorded table; restore it, or move it away and record the table again."
      ) from error
  return found


def _list(tables: Sequence[Table], cells: Mapping[str, Cell], flags: PaperFlags) -> str:
  """Returns a line for each table, with the expected time; of few tables also the claims."""
  machine = expected_time.GPU if flags.scale == "full" else expected_time.CPU_CORE
  rows = []
  chosen = [tuple(cell for cell in table.cells if cell.name in cells) for table in tables]
  for table, of in zip(tables, chosen, strict=True):
    time = expected_time.total(of, flags.scale, machine, flags.seeds)
    shown = human_seconds(time) if math.isfinite(time) else "not known"
    rows.append([table.name, str(len(of)), str(len(table.claims)), shown, table.title])
  where = "a GPU (H100)" if flags.scale == "full" else "a CPU core"
  text = columns_table(["table", "cells", "claims", "time", "title"], rows)
  seeds = f"{flags.seeds} seed{'s' * (flags.seeds != 1)}"
  text += f"\n\ntime: of the cells at scale {flags.scale} with {seeds} on {where}, roughly; tables "
  text += "share cells"
  for table, of in zip(tables, chosen, strict=True) if len(tables) <= _FEW else ():
    labels = "; ".join(cell.label for cell in of)
    claims = "".join(f"\n  - {claim.text}" for claim in table.claims)
    text += f"\n\n{table.name}\n  cells: {labels}\n  claims:{claims}"
  return text


def _command(table: Table, flags: PaperFlags) -> str:
  words = [command("paper"), f"--table={table.name}", f"--scale={flags.scale}"]
  words += [f"--seeds={flags.seeds}"] if flags.seeds != PaperFlags.seeds else []
  words += [f"--seed={flags.seed}"] if flags.seed else []
  words += [f"--cells='{flags.cells}'"] if flags.cells else []
  return " ".join([*words, *(["--data_dir=DATA"] if flags.data_dir else [])])


def _made(table: Table, contenders: Mapping[str, Contender], flags: PaperFlags) -> dict[str, str]:
  """Returns how the runs of a table were made; the machine is the one that collects them."""
  found = (contenders[cell.name] for cell in table.cells if cell.name in contenders)
  paths = {run.path for one in found for run in one.runs}
  entries = sorted((e for path in paths for e in read_made_by(path)), key=lambda e: e["date"])
  commits = dict.fromkeys(entry.get("commit", "unknown") for entry in entries)
  versions = dict.fromkeys(f"fedjax_norm {e['fedjax_norm']}, jax {e['jax']}" for e in entries)
  dates = [entry["date"][:10] for entry in entries]
  device = jax.devices()[0]
  cores = len(os.sched_getaffinity(0))
  kind = f"{cores} CPU core{'s' * (cores != 1)}" if device.platform == "cpu" else device.device_kind
  return {
    "date": " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])),
    "commit": f"commit {', '.join(commits)}",
    "machine": kind,
    "versions": ", ".join(versions),
    "command": _command(table, flags),
  }


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run_plain(main, PaperFlags, __doc__)
