"""Mean and standard deviation of the results of runs with different seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_norm.evaluation.measures import compared
from fedjax_norm.training.storage.csv_rows import Row
from fedjax_norm.training.task.constant_baseline import WARNING
from fedjax_norm.training.terminal.tables import columns_table


def summarize(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Returns means and standard deviations (with n - 1 in the denominator) over seeds.

  Args:
    figures: results of each seed, such as its summary: name -> number, text or bool.

  Returns:
    ``seeds``, the number of seeds; and, for every name that all seeds have, the mean under that
    name and the standard deviation under ``name_std``. The mean of equal numbers keeps their
    type, a text that differs between seeds is left out, and a bool is true if any seed's is.
  """
  result: dict[str, Any] = {"seeds": len(figures)}
  for name in figures[0]:
    if not all(name in figure for figure in figures):  # such as the IoU of a class
      continue
    values = [figure[name] for figure in figures]
    if isinstance(values[0], str):
      result |= {name: values[0]} if len(set(values)) == 1 else {}
      continue
    if isinstance(values[0], bool):
      result[name] = any(values)
      continue
    result[name] = values[0] if len(set(values)) == 1 else float(np.mean(values))
    result[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
  return result


def summarize_rows(runs: Sequence[Sequence[Row]]) -> list[Row]:
  """Returns the :func:`summarize` of each round that the ``metrics.csv`` rows of all seeds have."""
  by_round = [{row["round"]: row for row in rows} for rows in runs]
  shared = [round for round in by_round[0] if all(round in rows for rows in by_round)]
  return [summarize([rows[round] for rows in by_round]) for round in shared]


def print_table(
  summaries: dict[int, dict[str, Any]], result: dict[str, Any], classes: int = 0
) -> None:
  """Prints a table of test measures, with a row per seed, the mean and the standard deviation.

  Args:
    summaries: seed -> summary.
    result: what :func:`summarize` returns for the summaries.
    classes: number of classes; 0 if it is unknown.
  """
  measures = {n: measure for n, measure in compared(result, classes).items() if measure.main}

  def row(label: str, figures: dict[str, Any], suffix: str = "") -> list[str]:
    values = (measure.format(figures[name + suffix]) for name, measure in measures.items())
    return [label, *values, f"{figures['loss' + suffix]:.4f}"]

  rows = [row(str(seed), figures) for seed, figures in summaries.items()]
  rows += [row("mean", result), row("std", result, "_std")]
  titles = [measure.title for measure in measures.values()]
  print(columns_table(["seed", *titles, "test loss"], rows), flush=True)
  if seeds := [str(k) for k, one in summaries.items() if one["no_better_than_guessing"]]:
    print(f"warning: with --seed={', '.join(seeds)} {WARNING}.", flush=True)
