"""The binary ``experiments.compare``: finished runs in a table and a picture."""

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
  """The options of ``experiments.compare``."""

  output: str = option("compare.png", "Path of the picture, a PNG file.")
  target: float | None = option(
    None,
    "Test accuracy, such as 0.9; the table then also shows the rounds, bytes and simulated time "
    "that each run needed to reach it.",
  )
  title: str = option("Test accuracy", "Title of the picture.")


# Flags about the machine, the evaluation, the seed and the version, which label a run only if the
# runs differ in no other flag.
_MINOR_FLAGS = (
  "backend", "chunk", "eval_batch_size", "eval_every", "host_devices", "seed", "seeds", "version",
)  # fmt: skip


def names(configs: list[dict[str, Any]]) -> list[str]:
  """Returns a label for each run: the fewest flags by which all runs differ.

  Raises:
    UserError: two runs have the same flags, such as one run that was named twice.
  """
  keys = sorted({key for config in configs for key in config})
  different = [key for key in keys if any(c.get(key) != configs[0].get(key) for c in configs)]
  shared = [key for key in different if all(key in config for config in configs)]
  major = [key for key in shared if key not in _MINOR_FLAGS]
  for chosen in (major, shared, different):
    labels = [" ".join(_label(key, config) for key in chosen) for config in configs]
    if len(set(labels)) == len(labels):
      return labels
  raise UserError("two of the runs have the same flags; name each run once.")


def _label(key: str, config: dict[str, Any]) -> str:
  value = config.get(key)
  return str(value) if key in ("algorithm", "norm") else f"{key}={value}"


def to_reach(rows: Sequence[dict[str, Any]], target: float) -> list[str]:
  """Returns rounds, bytes and simulated time until a run reached a test accuracy, each as text.

  Args:
    rows: rows of the run's ``metrics.csv``.
    target: value from 0 to 1 of the task's main test measure.
  """
  row = next((row for row in rows if row[headline(row)] >= target), None)
  if row is None:
    return ["-", "-", "-"]
  time = human_seconds(row["simulated_seconds"]) if "simulated_seconds" in row else "-"
  return [f"{row['round']:,}", human_bytes(row["bytes_up"] + row["bytes_down"]), time]


def read(folder: str) -> tuple[dict[str, Any], list[Row], dict[str, Any]]:
  """Returns config.json, metrics.csv and summary.json of a finished run.

  The last two are means and standard deviations if the run has several seeds.

  Raises:
    UserError: the folder contains no finished run.
  """
  path = Path(folder)
  if not (path / "summary.json").exists() or not (path / CONFIG).exists():
    raise UserError(f"{folder} contains no finished run; name the folder (--workdir) of one.")
  config, summary = read_config(path), read_json(path / "summary.json")
  if config.get("seeds"):
    numbers = range(config["seed"], config["seed"] + config["seeds"])
    tables = [read_rows(path / f"seed_{seed}" / "metrics.csv")[0] for seed in numbers]
    return config, seeds.summarize_rows(tables), summary
  return config, read_rows(path / "metrics.csv")[0], summary


def _format(measure: Measure, summary: dict[str, Any], column: str) -> str:
  """Returns a measure as text, with its standard deviation if the run has several seeds."""
  mean, deviation = summary[column], summary.get(f"{column}_std")
  return measure.format(mean) + (f" ± {measure.format(deviation)}" if deviation is not None else "")


def compare(folders: Sequence[str], output: str, title: str, target: float | None = None) -> str:
  """Draws the picture and returns the table.

  Args:
    folders: folders of at least two finished runs.
    output: path of the picture.
    title: title of the picture.
    target: test accuracy; if given, the table has the rounds, bytes and time until it was reached.

  Raises:
    UserError: the target is not above 0 and up to 1, there are fewer than two folders, a folder
      contains no finished run, two runs have the same flags, or runs have different test measures.
  """
  if target is not None and not 0 < target <= 1:
    raise UserError(f"--target is {target}; give an accuracy above 0 and up to 1, such as 0.9.")
  if len(folders) < 2:
    raise UserError("name at least two run folders to compare.")
  configs, runs, summaries = zip(*map(read, folders), strict=True)
  kinds = {next(iter(measures_of(summary).items())) for summary in summaries}
  if len(kinds) > 1:
    titles = " and ".join(sorted(measure.title for _, measure in kinds))
    raise UserError(f"these runs have different test measures, {titles}; name runs of one task.")
  [(column, measure)] = kinds
  labels = names(list(configs))
  base.save(curves.compare_figure(dict(zip(labels, runs, strict=True)), title), output)
  table = [
    [
      label,
      _format(measure, s, column),
      f"{s['loss']:.4f}",
      human_bytes(s["bytes_up"] + s["bytes_down"]),
      f"{s['round_trips']:,}",
      human_seconds(s["simulated_seconds"]) if "simulated_seconds" in s else "-",
      *(to_reach(rows, target) if target is not None else []),
    ]
    for label, s, rows in zip(labels, summaries, runs, strict=True)
  ]
  head = ["run", measure.title, "test loss", "bytes", "round trips", "simulated time"]
  if target is not None:
    head += [f"{cost} to {target:.0%}" for cost in ("rounds", "bytes", "time")]
  return columns_table(head, table)


def main(config: CompareFlags, *paths: str) -> None:
  """Prints the table and draws the picture of the runs in the folders ``paths``."""
  print(compare(paths, config.output, config.title, config.target))
  print(f"picture: {config.output}")


def launch() -> None:
  """Runs the binary with the flags of the command line, and exits."""
  run_plain(main, CompareFlags, positional=True)
