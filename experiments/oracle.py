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

from experiments import app, build_decentralized, decentralized, savings
from experiments.cells import Result, load_sources, run_cell
from experiments.checks import numbers
from experiments.decentralized_flags import DecentralizedFlags, OracleFlags
from experiments.training import Prepare
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import trained_by
from fedjax_norm.options import with_defaults
from fedjax_norm.training import plots
from fedjax_norm.training.files import write_atomic
from fedjax_norm.training.run_folder import RunFolder

CONFIG = with_defaults(OracleFlags, lr=0.01, algorithm="gaia", partition="skew", skewscout="hill")

_PREPARE: Prepare = decentralized.prepare
_THETA = {"gaia": "threshold", "fedavg": "local_steps", "dgc": "sparsity"}


def runs(
  config: OracleFlags,
) -> tuple[dict[str, DecentralizedFlags], tuple[savings.Degree, ...]]:
  """The flags of every run by its folder's name, and which runs belong to a degree of skew.

  Raises:
    UserError: flags that do not go together here.
  """
  if config.algorithm not in _THETA:
    raise UserError(f"{config.algorithm} has no theta to choose; use gaia, fedavg or dgc.")
  if config.partition != "skew" or config.fraction is not None:
    raise UserError(
      "the degrees of skew are those of --oracle_fractions, for --partition=skew; drop --partition "
      "and --fraction."
    )
  if config.seeds != 1:
    raise UserError("one seed at a time is compared; drop --seeds and give --seed.")
  if not config.oracle_tolerance >= 0:
    raise UserError(f"--oracle_tolerance is {config.oracle_tolerance}; it must be 0 or more.")
  own = [field.name for field in dataclasses.fields(DecentralizedFlags)]
  scout = DecentralizedFlags(**{name: getattr(config, name) for name in own})
  dial = build_decentralized.make_dial(scout.in_rounds(config.clients or 10, 10**6))
  if not (dial and dial.scout and dial.scout.search):
    raise UserError(
      f"--skewscout={config.skewscout} chooses nothing to compare; name a search, such as hill."
    )
  grid = dial.scout.grid
  off: dict[str, Any] = {name: None for name in own if name.startswith("scout_")}
  off["skewscout"] = "off"
  owned = build_decentralized.OWN_FLAGS.values()
  bsp: dict[str, Any] = {name: None for names in owned for name in names}
  if config.algorithm == "fedavg":
    bsp["reduction"] = "mean"  # of which one rate makes steps of one size
  configs: dict[str, DecentralizedFlags] = {}
  degrees = []
  for fraction in dict.fromkeys(numbers(config, "oracle_fractions")):
    label = f"{100 * fraction:g}%"
    degree = savings.Degree(
      label,
      f"{fraction:g}-bsp",
      {f"{theta:g}": f"{fraction:g}-{theta:g}" for theta in grid},
      f"{fraction:g}-skewscout",
    )
    skewed = dataclasses.replace(scout, fraction=fraction)
    configs[degree.bsp] = dataclasses.replace(skewed, **off, **bsp, algorithm="bsp")
    for theta, name in zip(grid, degree.thetas.values(), strict=True):
      value = int(theta) if config.algorithm == "fedavg" else theta
      chosen: dict[str, Any] = {**off, _THETA[config.algorithm]: value}
      configs[name] = dataclasses.replace(skewed, **chosen)
    configs[degree.scout] = skewed
    degrees.append(degree)
  return configs, tuple(degrees)


def main(config: OracleFlags) -> None:
  """Runs everything and writes what was saved."""
  if trained_by(config.task) != "classification":
    raise UserError(
      f"the Oracle holds runs against BSP's accuracy, of which {config.task} has none; choose "
      "--task=classification."
    )
  configs, degrees = runs(config)
  for each in configs.values():  # what is wrong with the flags, before data is read
    _PREPARE(each.in_rounds(each.clients or 10, 10**6))
  sources = load_sources(configs)
  folder = app.new_folder(config)
  apart = ("oracle_tolerance", "oracle_fractions")
  saved = {key: value for key, value in config.saved().items() if key not in apart}
  with RunFolder.open(folder, saved, config.resume, config.wait_for_workdir):
    results: dict[str, Result] = {}
    for number, (name, each) in enumerate(configs.items(), 1):
      results[name] = run_cell(name, _PREPARE, each, sources[name], folder / name)
      top1 = results[name].percent("top1")
      print(f"{number}/{len(configs)} {name}: {top1:.2f}", flush=True)
    tolerance = config.oracle_tolerance
    text = savings.render(degrees, results, tolerance)
    write_atomic(folder / "oracle.md", f"{text}\n".encode())
    write_atomic(folder / "oracle.csv", savings.as_csv(degrees, results, tolerance).encode())
    title = f"Communication saved at BSP's accuracy: {config.algorithm}, {config.model}"
    plots.save(savings.draw(degrees, results, tolerance, title), Path(folder) / "oracle.png")
    print(f"\n{text}\n\nwritten: {folder}")


if __name__ == "__main__":
  app.run(main, CONFIG)
