"""Measures how much communication SkewScout saves: ``python -m experiments.oracle``.

This is the comparison of paper 004, sec. 7.3 and fig. 8. For each degree of label skew
(``--oracle_fractions``) it runs BSP, ``--algorithm`` with every communication threshold theta of
``--scout_grid``, and SkewScout, which chooses theta while training. Each run has a folder below
``--workdir``; starting the program again resumes it. The Oracle is the run with a fixed theta that
sends the fewest bytes and keeps BSP's accuracy. ``oracle.md``, ``oracle.csv`` and ``oracle.png``
give BSP's bytes, up and down, divided by those of the Oracle and of SkewScout.
"""

import contextlib
import dataclasses
import io
import math
import sys
from pathlib import Path
from typing import Any

from fedjax_norm import options
from fedjax_norm.cli import app, train
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.method_choice import Choice
from fedjax_norm.cli.methods import DECENTRALIZED
from fedjax_norm.data.examples import Source
from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.objectives import training_objective
from fedjax_norm.options import option, with_defaults
from fedjax_norm.plots import base
from fedjax_norm.study import savings
from fedjax_norm.study.results.final_runs import seed_runs
from fedjax_norm.study.sources import Sources
from fedjax_norm.training.skewscout_run import make_theta_schedule
from fedjax_norm.training.storage.atomic_files import write_atomic
from fedjax_norm.training.storage.run_folder import SUMMARY, RunFolder

_THETA = {"gaia": "threshold", "fedavg": "local_steps", "dgc": "sparsity"}


@dataclasses.dataclass(frozen=True)
class OracleConfig(options.Options):
  """Options of the comparison with the Oracle (paper 004, sec. 7.3)."""

  group = "Oracle"

  oracle_tolerance: float = option(
    1.0,
    "Percentage points of top-1 accuracy that a run may lose to BSP and still count as equally "
    "accurate.",
    least=0,
  )
  oracle_fractions: tuple[float, ...] = option(
    (0.2, 0.6, 1.0),
    "Degrees of label skew to compare, between 0 and 1: the share of the training data that is "
    "partitioned by label; the rest is IID.",
  )


def _with_oracle_options(kind: type[Config]) -> type[Config]:
  kind = dataclasses.make_dataclass(kind.__name__, [], bases=(OracleConfig, kind), frozen=True)
  return with_defaults(kind, partition="skew", skewscout="hill")


ALGORITHM = Choice(
  "algorithm",
  "gaia",
  {name: _with_oracle_options(DECENTRALIZED.configs[name]) for name in _THETA},
  {name: DECENTRALIZED.help[name] for name in _THETA},
)


def runs(config: Any) -> tuple[dict[str, Config], tuple[savings.Degree, ...]]:
  """Returns (folder name -> flags of the run, the names of the runs of each degree of skew).

  Raises:
    UserError: the flags set the partition, several seeds, or a SkewScout that does not search.
  """
  if config.partition != "skew" or config.fraction is not None:
    raise UserError(
      "--oracle_fractions sets the degrees of skew, with --partition=skew; drop --partition and "
      "--fraction."
    )
  if config.seeds != 1:
    raise UserError(
      "the Oracle compares runs of one seed; drop --seeds, and choose the seed by --seed."
    )
  resolved = config.in_rounds(config.clients or 10, 10**6)
  theta_schedule = make_theta_schedule(resolved, resolved.row, resolved.rounds)
  if not (theta_schedule and theta_schedule.scout and theta_schedule.scout.searches):
    raise UserError(
      f"--skewscout={config.skewscout} does not search for theta; choose hill, stochastic or "
      "annealing."
    )
  grid = theta_schedule.scout.grid
  changed = {
    field.name: getattr(config, field.name)
    for field in options.of(type(config))
    if getattr(config, field.name) != field.default and not field.name.startswith("oracle_")
  }
  changed["partition"] = "skew"
  per_run = ("algorithm", "skewscout")
  without_scout = {
    k: v for k, v in changed.items() if not k.startswith("scout_") and k not in per_run
  }
  theta = _THETA[config.algorithm]

  def flags(algorithm: str, **more: Any) -> Config:
    kind = DECENTRALIZED.config(algorithm)
    names = {field.name for field in options.of(kind)}
    values = {**(changed if "skewscout" in more else without_scout), **more}
    return options.make(kind, **{name: value for name, value in values.items() if name in names})

  # FedAvg averages models. BSP takes steps of the same size if it averages the updates as well.
  bsp = {"reduction": "mean"} if config.algorithm == "fedavg" else {}
  configs: dict[str, Config] = {}
  degrees = []
  for fraction in dict.fromkeys(config.oracle_fractions):
    degree = savings.Degree(
      f"{100 * fraction:g}%",
      f"{fraction:g}-bsp",
      {f"{value:g}": f"{fraction:g}-{value:g}" for value in grid},
      f"{fraction:g}-skewscout",
    )
    configs[degree.bsp] = flags("bsp", fraction=fraction, **bsp)
    for value, name in zip(grid, degree.thetas.values(), strict=True):
      number = int(value) if config.row.theta.is_integer else value
      configs[name] = flags(config.algorithm, fraction=fraction, **{theta: number})
    configs[degree.scout] = flags(config.algorithm, fraction=fraction, skewscout=config.skewscout)
    degrees.append(degree)
  return configs, tuple(degrees)


def main(config: Any) -> None:
  """Runs BSP, every theta and SkewScout at each degree of skew, and writes what they save.

  Raises:
    UserError: the task has no accuracy, or the flags do not fit together.
  """
  if training_objective(config.task) != "classification":
    raise UserError(
      f"the Oracle compares accuracies, which --task={config.task} does not have; choose "
      "--task=classification."
    )
  configs, degrees = runs(config)
  for run_config in configs.values():  # errors in the flags are raised before data is read
    train.check(run_config)
  sources = Sources()
  for run_config in configs.values():
    sources.of(run_config)
  folder = app.new_folder(config)
  changeable = ("oracle_tolerance", "oracle_fractions")
  saved = {key: value for key, value in config.saved().items() if key not in changeable}
  with RunFolder.open(folder, saved, config.resume, config.wait_for_workdir):
    results: dict[str, savings.Outcome] = {}
    for number, (name, run_config) in enumerate(configs.items(), 1):
      results[name] = _run(name, run_config, sources.of(run_config), folder / name)
      print(f"{number}/{len(configs)} {name}: {results[name].top1:.2f}", flush=True)
    tolerance = config.oracle_tolerance
    text = savings.render(degrees, results, tolerance)
    write_atomic(folder / "oracle.md", f"{text}\n".encode())
    write_atomic(folder / "oracle.csv", savings.as_csv(degrees, results, tolerance).encode())
    title = f"Communication saved at BSP's accuracy: {config.algorithm}, {config.model}"
    base.save(savings.draw(degrees, results, tolerance, title), folder / "oracle.png")
    print(f"\n{text}\n\nwritten: {folder}")


def _run(name: str, config: Config, source: Source, path: Path) -> savings.Outcome:
  """Starts or resumes a run unless it has finished, and returns its accuracy and its bytes."""
  if not (path / SUMMARY).exists():
    resolved, task = train.prepare(config, source)
    try:
      with contextlib.redirect_stdout(io.StringIO()):  # the caller prints one line per run
        train.run_seed(resolved, task, train.make(task, resolved), path)
    except DivergedError as error:
      print(f"{name}: {error}", file=sys.stderr)
      return savings.Outcome(math.nan, math.nan)
  (run,) = seed_runs(path)
  sent = float(run.summary["bytes_up"] + run.summary["bytes_down"])
  return savings.Outcome(100 * run.summary["top1"], sent)


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(main, ALGORITHM, __doc__)
