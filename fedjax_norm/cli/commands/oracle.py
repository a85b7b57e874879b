"""What communication could be saved: ``python -m experiments.oracle --algorithm=gaia``.

The Oracle of paper 004 (sec. 7.3 and fig. 8). For each degree of skew this runs BSP, every theta of
the algorithm's grid (``--scout_grid``) and SkewScout, each in a folder of its own below
``--workdir``; one that was stopped goes on where it was. At the end it tells and draws what Oracle
and SkewScout save over BSP without losing its accuracy: ``oracle.md``, ``oracle.csv`` and
``oracle.png``. Communication is what a whole run sends, in both directions.
"""

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
    1.0, "Points of accuracy below BSP's that count as equal.", least=0
  )
  oracle_fractions: tuple[float, ...] = option(
    (0.2, 0.6, 1.0), "Degrees of skew: the shares of the data that are divided by label."
  )


def _kind(kind: type[Config]) -> type[Config]:
  kind = dataclasses.make_dataclass(kind.__name__, [], bases=(OracleConfig, kind), frozen=True)
  return with_defaults(kind, partition="skew", skewscout="hill")


ALGORITHM = Choice(
  "algorithm",
  "gaia",
  {name: _kind(DECENTRALIZED.configs[name]) for name in _THETA},
  {name: DECENTRALIZED.help[name] for name in _THETA},
)


def runs(config: Any) -> tuple[dict[str, Config], tuple[savings.Degree, ...]]:
  """The flags of every run by its folder's name, and which runs belong to a degree of skew.

  Raises:
    UserError: flags that do not go together here.
  """
  if config.partition != "skew" or config.fraction is not None:
    raise UserError(
      "the degrees of skew are those of --oracle_fractions, for --partition=skew; drop --partition "
      "and --fraction."
    )
  if config.seeds != 1:
    raise UserError("one seed at a time is compared; drop --seeds and give --seed.")
  known = config.in_rounds(config.clients or 10, 10**6)
  theta_schedule = make_theta_schedule(known, known.row, known.rounds)
  if not (theta_schedule and theta_schedule.scout and theta_schedule.scout.searches):
    raise UserError(
      f"--skewscout={config.skewscout} chooses nothing to compare; name a search, such as hill."
    )
  grid = theta_schedule.scout.grid
  changed = {
    one.name: getattr(config, one.name)
    for one in options.of(type(config))
    if getattr(config, one.name) != one.default and not one.name.startswith("oracle_")
  }
  changed["partition"] = "skew"
  own = ("algorithm", "skewscout")
  off = {k: v for k, v in changed.items() if not k.startswith("scout_") and k not in own}
  theta = _THETA[config.algorithm]

  def flags(algorithm: str, **more: Any) -> Config:
    kind = DECENTRALIZED.config(algorithm)
    has = {one.name for one in options.of(kind)}
    given = {**(changed if "skewscout" in more else off), **more}
    return options.make(kind, **{name: value for name, value in given.items() if name in has})

  # Of FedAvg, whose models are averaged, one rate makes steps of one size with the mean.
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
      whole = int(value) if config.row.theta.is_integer else value
      configs[name] = flags(config.algorithm, fraction=fraction, **{theta: whole})
    scout = {"skewscout": config.skewscout}
    configs[degree.scout] = flags(config.algorithm, fraction=fraction, **scout)
    degrees.append(degree)
  return configs, tuple(degrees)


def main(config: Any) -> None:
  """Runs everything and writes what was saved."""
  if training_objective(config.task) != "classification":
    raise UserError(
      f"the Oracle holds runs against BSP's accuracy, of which {config.task} has none; choose "
      "--task=classification."
    )
  configs, degrees = runs(config)
  for each in configs.values():  # what is wrong with the flags, before data is read
    train.check(each)
  sources = load_sources(configs)
  folder = app.new_folder(config)
  apart = ("oracle_tolerance", "oracle_fractions")
  saved = {key: value for key, value in config.saved().items() if key not in apart}
  with RunFolder.open(folder, saved, config.resume, config.wait_for_workdir):
    results: dict[str, Result] = {}
    for number, (name, each) in enumerate(configs.items(), 1):
      results[name] = run_cell(name, each, sources[name], folder / name)
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
  """Runs the binary on the command line's flags, and exits."""
  app.run(main, ALGORITHM)
