"""The study that trains the cells of the papers' tables."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjax_norm import options
from fedjax_norm.cli import train
from fedjax_norm.cli.methods import ANY_METHOD
from fedjax_norm.errors import UserError
from fedjax_norm.papers import expected_time
from fedjax_norm.papers.paper_flags import PaperFlags
from fedjax_norm.papers.tables import EFFORT, RUNGS, Cell
from fedjax_norm.study.planning import combinations
from fedjax_norm.study.planning.plan import SOURCES, Plan

_FIXED = ("scale", "data_dir", "seed")  # options that a folder keeps
_FILES = ("folder", "csv", "masks")  # kinds of data whose files are below ``--data_dir``


def make(cells: Mapping[str, Cell], flags: PaperFlags, workers: int, stored: Plan | None) -> Plan:
  """Returns the plan with some cells of the tables; it keeps the cells of a stored plan.

  Args:
    cells: name -> cell.
    flags: the options of the command.
    workers: number of processes that train side by side.
    stored: the plan in the folder; None for a new one.

  Raises:
    UserError: options are wrong, or the folder holds runs with others.
  """
  fixed = {name: getattr(flags, name) for name in _FIXED}
  kept = {cell.name: cell for cell in stored.cells} if stored else {}
  new = {name: _contender(cell, flags) for name, cell in cells.items()}
  if stored:
    _check_same(fixed, flags.seeds, stored)
    if changed := [n for n in new.keys() & kept.keys() if _runs(new[n]) != _runs(kept[n])]:
      raise UserError(
        f"--workdir has a run {min(changed)} with other settings, those of another version of "
        "fedjax_norm; pass another --workdir."
      )
  if flags.data_dir and not any("data_dir" in one.flags for one in new.values()):
    read = (cell.config(flags.scale).data for cell in cells.values())
    if not any(data.partition(":")[0] in _FILES for data in read):
      raise UserError(
        "--data_dir has no effect because the selected runs read no data from files; drop it."
      )
  return Plan(
    options=fixed,
    cells=tuple({**kept, **new}.values()),
    effort=EFFORT,
    rates=(),
    extends=False,
    seed=flags.seed,
    seeds=flags.seeds,
    measure="top1",
    score="last",
    workers=workers,
    lanes=1,
    costs={},
    rungs=RUNGS,
  )


def with_data_dir(data: str, data_dir: str | None) -> dict[str, Any]:
  """Returns the options with which a run reads its data from ``--data_dir``, if from files.

  Raises:
    UserError: the run reads files below ``--data_dir``, which is None.
  """
  kind, _, path = data.partition(":")
  if kind in _FILES:
    if data_dir is None:
      raise UserError(f"the data {data!r} is in the folder --data_dir; set --data_dir.")
    return {"data": f"{kind}:{Path(data_dir) / path}"}
  if kind in ("digits", "identities"):
    return {}
  if data_dir is None:
    raise UserError(
      f"the runs at this scale read the data set {data}; set --data_dir, the folder of prepared "
      "TFDS data sets."
    )
  return {"data_dir": data_dir}


def _contender(cell: Cell, flags: PaperFlags) -> combinations.Cell:
  """Returns a cell as the contender of a study, with all options that are not the default."""
  config: Any = cell.config(flags.scale)
  where = with_data_dir(config.data, flags.data_dir)
  kind = ANY_METHOD.config(config.row.name)
  values = {one.name: getattr(config, one.name, one.default) for one in options.of(kind)}
  values |= {**where, "method": config.row.name, "host_devices": 1}
  changed = {one.name: values[one.name] for one in options.of(kind)
             if values[one.name] != one.default}  # fmt: skip
  stored = {
    name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()
  }
  expected = expected_time.seconds(config, expected_time.CPU_CORE)
  contender = combinations.Cell(
    name=cell.name,
    label=cell.name,
    setting=flags.scale,
    options={},
    flags={**stored, "method": config.row.name},
    rounds=config.rounds if cell.rates else None,
    eval_every=None,
    seconds=round(expected) if math.isfinite(expected) else 60.0,
    rates=cell.rates or None,
    measure="mean_iou" if config.task == "segmentation" else None,
  )
  checked = contender.config(seed=flags.seed, seeds=flags.seeds)
  train.check(checked)
  SOURCES.of(checked)  # data that cannot be read is an error before anything is trained
  return contender


def _runs(cell: combinations.Cell) -> Any:
  """Returns what must not change while a folder has runs of a cell."""
  return cell.flags, cell.rounds, cell.rates


def _check_same(fixed: dict[str, Any], seeds: int, stored: Plan) -> None:
  for name, value in fixed.items():
    if stored.options.get(name) != value:
      raise UserError(
        f"the runs in --workdir have --{name}={stored.options.get(name)}, not {value}; pass the "
        "same value or another --workdir."
      )
  if seeds < stored.seeds or (seeds > stored.seeds == 1):
    raise UserError(
      f"the runs in --workdir have --seeds={stored.seeds}, not {seeds}; pass the same number or "
      "another --workdir (more seeds can be added to two or more)."
    )
