"""Runs with several seeds: their mean and their deviation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_norm.evaluation.measures import measures_of
from fedjax_norm.training.storage.csv_rows import Row
from fedjax_norm.training.task.constant_baseline import WARNING
from fedjax_norm.training.terminal.tables import columns_table


def summarize(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Mean and standard deviation (n - 1) over seeds.

  Args:
    figures: one dict a seed, such as its summary: name to a number, or to a text.

  Returns:
    ``seeds``, how many there are; and for every name that all seeds have the mean under that name
    and the deviation under ``name_std``. What is equal for all seeds keeps its type, a text that
    differs is left out, and a yes is a yes for one of them or more.
  """
  result: dict[str, Any] = {"seeds": len(figures)}
  for name in figures[0]:
    if not all(name in figure for figure in figures):  # a class that one seed never met
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
  """The rows of ``metrics.csv`` as :func:`summarize` gives them, of the rounds that all seeds have.

  Args:
    runs: the rows of each seed.
  """
  by_round = [{row["round"]: row for row in rows} for rows in runs]
  shared = [round for round in by_round[0] if all(round in rows for rows in by_round)]
  return [summarize([rows[round] for rows in by_round]) for round in shared]


def print_table(summaries: dict[int, dict[str, Any]], result: dict[str, Any]) -> None:
  """Prints a row a seed, the mean and the deviation.

  Args:
    summaries: by seed.
    result: what :func:`summarize` makes of them.
  """
  tested = measures_of(result)

  def row(label: str, figures: dict[str, Any], kind: str = "") -> list[str]:
    told = (measure.format(figures[name + kind]) for name, measure in tested.items())
    return [label, *told, f"{figures['loss' + kind]:.4f}"]

  rows = [row(str(seed), figures) for seed, figures in summaries.items()]
  rows += [row("mean", result), row("std", result, "_std")]
  titles = [measure.title for measure in tested.values()]
  print(columns_table(["seed", *titles, "test loss"], rows), flush=True)
  if guess := [str(k) for k, one in summaries.items() if one["no_better_than_guessing"]]:
    print(f"warning: with --seed={', '.join(guess)} {WARNING}.", flush=True)
