"""Folders of finished runs, written without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.contenders import seed_run, tuning

from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.cli.config import config_of
from fedjax_norm.study.planning import plan
from fedjax_norm.study.planning.combinations import Cell
from fedjax_norm.study.planning.plan import PLAN, Plan
from fedjax_norm.training.storage.atomic_files import write_json
from fedjax_norm.training.storage.csv_rows import write_table


def write_run(
  folder: Path, method: str, scores: Sequence[float], run: Any = None, **options: Any
) -> Path:
  """Writes a finished run with the seeds 0, 1, ..., and returns its folder.

  Args:
    folder: a new folder.
    method: name of the method.
    scores: the score of each seed.
    run: further arguments of ``seed_run``, as a dict.
    options: options of the run.
  """
  base = {"local_steps": 10} if method == "fedavg" else {}
  config = config_of(METHODS[method])(**base | options)
  for seed, score in enumerate(scores):
    path = folder / f"seed_{seed}" if len(scores) > 1 else folder
    path.mkdir(parents=True)
    result = seed_run(seed, score, **run or {})
    saved = {**config.saved(), "made_by": [{"command": f"python -m x --workdir={folder}"}]}
    saved["rounds"] = result.summary["rounds"]
    write_json(path / "config.json", saved | {"seed": seed})
    write_json(path / "summary.json", result.summary)
    for name in ("evaluation.json", "evaluation_best.json"):
      write_json(path / name, result.evaluation)
    write_table(path / "metrics.csv", result.rows)
  if len(scores) > 1:
    write_json(folder / "config.json", {**saved, "seed": 0, "seeds": len(scores)})
    write_json(folder / "summary.json", {**result.summary, "seeds": len(scores)})
  return folder


def write_study(folder: Path) -> Path:
  """Writes a study with a finished, a diverged, an impossible and a pending contender."""
  folder.mkdir(exist_ok=True)
  cells = [
    Cell(name, label, "iid", {"norm": norm, "algorithm": "fedavg"}, {}, 100, reason=reason)
    for name, label, norm, reason in (
      ("a", "gn, fedavg", "gn", None),
      ("b", "bn, fedavg", "bn", None),
      ("c", "in, fedavg", "in", "it does not fit."),
      ("d", "ln, fedavg", "ln", None),
    )
  ]
  made = Plan(
    {"data": "digits"}, tuple(cells), 10, (0.1,), False, 0, 2, "top1", "best", 1, 1, {}, (5, 5)
  )
  write_json(
    folder / PLAN,
    {"format": plan.FORMAT, **made._asdict(), "cells": [cell._asdict() for cell in cells]},
  )
  write_run(folder / "runs" / "a", "fedavg", [0.5, 0.6], norm="gn")
  (folder / "cells").mkdir()
  search = tuning({0.1: 0.5, 0.03: 0.4})
  search = {**search._asdict(), "trials": [one._asdict() for one in search.trials]}
  for name, state, reason in (("a", "done", None), ("b", "diverged", "it overflowed.")):
    outcome = {"name": name, "setting": "iid", "options": {}, "state": state, "reason": reason}
    outcome |= {"command": "python -m x", "single_model": True, "tuning": search, "seconds": 1.0}
    write_json(folder / "cells" / f"{name}.json", outcome)
  return folder
