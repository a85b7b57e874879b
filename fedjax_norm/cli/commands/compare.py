"""Puts finished runs side by side: ``python -m experiments.compare runs/a runs/b``.

Draws their test accuracy over rounds into one picture and prints a table; a run is named by the
flags in which the runs differ. A run with several seeds (``--seeds``) is shown by its mean and its
standard deviation.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedjax_norm.cli import seeds
from fedjax_norm.cli.app import run_plain
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.measures import Measure, headline, measures_of
from fedjax_norm.options import Options, option
from fedjax_norm.plots import base, curves
from fedjax_norm.training.storage.atomic_files import read_json
from fedjax_norm.training.storage.csv_rows import Row, read_rows
from fedjax_norm.training.storage.run_folder import CONFIG, read_config
from fedjax_norm.training.terminal.tables import columns_table, human_bytes, human_seconds


@dataclasses.dataclass(frozen=True)
class CompareFlags(Options):
  """How runs are compared."""

  output: str = option("compare.png", "Where the picture goes.")
  target: float | None = option(
    None, "A test accuracy, such as 0.9: what each run needed to reach it is told too."
  )
  title: str = option("Test accuracy", "The title of the picture.")


# What hardly names a run: flags of the machine, of looking on, and the seed.
_QUIET = (
  "backend", "chunk", "eval_batch_size", "eval_every", "host_devices", "seed", "seeds",
  "version",  # of runs of older versions
)  # fmt: skip


def names(configs: list[dict[str, Any]]) -> list[str]:
  """Names runs by the flags in which they differ, with as few of them as tell the runs apart.

  Raises:
    UserError: two runs do not differ at all.
  """
  keys = sorted({key for config in configs for key in config})
  apart = [key for key in keys if any(c.get(key) != configs[0].get(key) for c in configs)]
  shared = [key for key in apart if all(key in config for config in configs)]
  loud = [key for key in shared if key not in _QUIET]
  for chosen in (loud, shared, apart):
    labels = [" ".join(_label(key, config) for key in chosen) for config in configs]
    if len(set(labels)) == len(labels):
      return labels
  raise UserError("two of these runs have the same flags; name each run once.")


def _label(key: str, config: dict[str, Any]) -> str:
  value = config.get(key)
  return str(value) if key in ("algorithm", "norm") else f"{key}={value}"


def to_reach(rows: Sequence[dict[str, Any]], target: float) -> list[str]:
  """What a run had used at the first evaluation with a test accuracy: rounds, bytes, time.

  Args:
    rows: of its evaluations.
    target: of the measure that runs of this task are compared by, from 0 to 1.
  """
  row = next((row for row in rows if row[headline(row)] >= target), None)
  if row is None:
    return ["-", "-", "-"]
  time = human_seconds(row["simulated_seconds"]) if "simulated_seconds" in row else "-"
  return [f"{row['round']:,}", human_bytes(row["bytes_up"] + row["bytes_down"]), time]


def read(folder: str) -> tuple[dict[str, Any], list[Row], dict[str, Any]]:
  """A finished run's flags, rows and summary; of several seeds their means and deviations.

  Raises:
    UserError: the folder holds no finished run.
  """
  path = Path(folder)
  if not (path / "summary.json").exists() or not (path / CONFIG).exists():
    raise UserError(f"{folder} holds no finished run; name the folder that --workdir was.")
  config, summary = read_config(path), read_json(path / "summary.json")
  if config.get("seeds"):
    numbers = range(config["seed"], config["seed"] + config["seeds"])
    tables = [read_rows(path / f"seed_{k}" / "metrics.csv")[0] for k in numbers]
    return config, seeds.summarize_rows(tables), summary
  return config, read_rows(path / "metrics.csv")[0], summary


def _told(measure: Measure, summary: dict[str, Any], column: str) -> str:
  """A measure as the table says it, with its deviation over seeds where there are several."""
  mean, deviation = summary[column], summary.get(f"{column}_std")
  return measure.format(mean) + (f" ± {measure.format(deviation)}" if deviation is not None else "")


def compare(folders: Sequence[str], output: str, title: str, target: float | None = None) -> str:
  """Draws the picture and gives the table.

  Args:
    folders: of at least two runs with summaries.
    output: the picture's path.
    title: of the picture.
    target: a test accuracy; the table tells what each run needed to reach it.

  Raises:
    UserError: a target that is no share, fewer than two folders, one that holds no finished run, or
      runs of different tasks.
  """
  if target is not None and not 0 < target <= 1:
    raise UserError(f"--target is {target}; give an accuracy above 0 and up to 1, such as 0.9.")
  if len(folders) < 2:
    raise UserError("name at least two run folders to compare.")
  configs, runs, summaries = zip(*map(read, folders), strict=True)
  kinds = {next(iter(measures_of(summary).items())) for summary in summaries}
  if len(kinds) > 1:
    told = " and ".join(sorted(measure.title for _, measure in kinds))
    raise UserError(f"these runs tell {told}, which do not compare; name runs of one task.")
  [(column, measure)] = kinds
  labels = names(list(configs))
  base.save(curves.compare_figure(dict(zip(labels, runs, strict=True)), title), output)
  table = [
    [
      label,
      _told(measure, s, column),
      f"{s['loss']:.4f}",
      human_bytes(s["bytes_up"] + s["bytes_down"]),
      f"{s['round_trips']:,}",
      human_seconds(s["simulated_seconds"]) if "simulated_seconds" in s else "-",
      *(to_reach(rows, target) if target is not None else []),
    ]
    for label, s, rows in zip(labels, summaries, runs, strict=True)
  ]
  head = ["run", measure.title, "test loss", "sent", "round trips", "simulated time"]
  if target is not None:
    head += [f"{what} to {target:.0%}" for what in ("rounds", "sent", "time")]
  return columns_table(head, table)


def main(config: CompareFlags, *paths: str) -> None:
  """Compares the runs in some folders."""
  print(compare(paths, config.output, config.title, config.target))
  print(f"picture: {config.output}")


def launch() -> None:
  """Runs the binary on the command line's flags, and exits."""
  run_plain(main, CompareFlags, positional=True)
