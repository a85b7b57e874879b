"""Measures the communication that SkewScout and the Oracle of paper 004 save over BSP."""

import dataclasses
from pathlib import Path
from typing import Any

from fedjax_norm import options
from fedjax_norm.cli import app, train
from fedjax_norm.cli.choice import Choice
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.methods import DECENTRALIZED
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import training_objective
from fedjax_norm.options import option, with_defaults
from fedjax_norm.plots import base
from fedjax_norm.study import savings
from fedjax_norm.study.cells import Result, load_sources, run_cell
from fedjax_norm.training.skewscout import make_theta_schedule
from fedjax_norm.training.storage.atomic_files import write_atomic
from fedjax_norm.training.storage.run_folder import RunFolder

_THETA = {"gaia": "threshold", "fedavg": "local_steps", "dgc": "sparsity"}


@dataclasses.dataclass(frozen=True)
class OracleConfig(options.Options):
  """Options of the Oracle of paper 004."""

  group = "Oracle"

  oracle_tolerance: float = option(
    1.0, "Points of accuracy below BSP's that still count as equal.", least=0
  )
  oracle_fractions: tuple[float, ...] = option(
    (0.2, 0.6, 1.0), "Degrees of skew to compare: shares of the data that are partitioned by label."
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
  """Returns the flags of each run by the name of its folder, and the runs of each degree of skew.

  Raises:
    UserError: the flags do not fit together.
  """
  if config.partition != "skew" or config.fraction is not None:
    raise UserError(
      "the degrees of skew are set by --oracle_fractions, with --partition=skew; drop --partition "
      "and --fraction."
    )
  if config.seeds != 1:
    raise UserError("only one seed can be compared; drop --seeds and give --seed.")
  resolved = config.in_rounds(config.clients or 10, 10**6)
  theta_schedule = make_theta_schedule(resolved, resolved.row, resolved.rounds)
  if not (theta_schedule and theta_schedule.scout and theta_schedule.scout.searches):
    raise UserError(
      f"--skewscout={config.skewscout} does not search for a theta; give a search, such as hill."
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

  # FedAvg averages models, so BSP takes steps of the same size only with the mean of the updates.
  bsp = {"reduction": "mean"} if config.algorithm == "fedavg" else {}
  configs: dict[str, Config] = {}
  degrees = []
  for fraction in dict.fromkeys(config.oracle_fractions):
    label = f"{100 * fraction:g}%"
    degree = savings.Degree(
      label,
      f"{fraction:g}-bsp",
      {f"{value:g}": f"{fraction:g}-{value:g}" for value in grid},
      f"{fraction:g}-skewscout",
    )
    configs[degree.bsp] = flags("bsp", fraction=fraction, **bsp)
    for value, name in zip(grid, degree.thetas.values(), strict=True):
      number = int(value) if config.row.theta.is_integer else value
      configs[name] = flags(config.algorithm, fraction=fraction, **{theta: number})
    scout = {"skewscout": config.skewscout}
    configs[degree.scout] = flags(config.algorithm, fraction=fraction, **scout)
    degrees.append(degree)
  return configs, tuple(degrees)


def main(config: Any) -> None:
  """Runs all cells and writes the savings."""
  if training_objective(config.task) != "classification":
    raise UserError(
      f"the Oracle compares accuracies, which --task={config.task} does not have; choose "
      "--task=classification."
    )
  configs, degrees = runs(config)
  for run_config in configs.values():  # errors in the flags are raised before data is read
    train.check(run_config)
  sources = load_sources(configs)
  folder = app.new_folder(config)
  changeable = ("oracle_tolerance", "oracle_fractions")
  saved = {key: value for key, value in config.saved().items() if key not in changeable}
  with RunFolder.open(folder, saved, config.resume, config.wait_for_workdir):
    results: dict[str, Result] = {}
    for number, (name, run_config) in enumerate(configs.items(), 1):
      results[name] = run_cell(name, run_config, sources[name], folder / name)
      top1 = results[name].percent("top1")
      print(f"{number}/{len(configs)} {name}: {top1:.2f}", flush=True)
    tolerance = config.oracle_tolerance
    text = savings.render(degrees, results, tolerance)
    write_atomic(folder / "oracle.md", f"{text}\n".encode())
    write_atomic(folder / "oracle.csv", savings.as_csv(degrees, results, tolerance).encode())
    title = f"Communication saved at BSP's accuracy: {config.algorithm}, {config.model}"
    base.save(savings.draw(degrees, results, tolerance, title), Path(folder) / "oracle.png")
    print(f"\n{text}\n\nwritten: {folder}")


def launch() -> None:
  """Runs the binary with the flags of the command line, and exits."""
  app.run(main, ALGORITHM)
