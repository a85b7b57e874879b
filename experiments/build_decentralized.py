"""From the flags of ``experiments.decentralized`` to its algorithms and what sets their theta."""

import numpy as np

from experiments.build_algorithms import make_local
from experiments.checks import given, numbers, refuse
from experiments.decentralized_flags import DecentralizedFlags
from fedjax_norm.algorithms.dgc import STAGES, DgcConfig
from fedjax_norm.algorithms.gaia import GaiaConfig
from fedjax_norm.algorithms.periodic import PeriodicConfig
from fedjax_norm.algorithms.ssgd import SsgdConfig
from fedjax_norm.control.dial import Dial, stages
from fedjax_norm.control.skewscout import GRIDS, SkewScout
from fedjax_norm.errors import UserError
from fedjax_norm.norm import NORMS

OWN_FLAGS = {
  "bsp": ("reduction",),
  "gaia": ("threshold",),
  "fedavg": ("local_steps", "client_momentum"),
  "dgc": (
    "sparsity",
    "sparsity_warmup_rounds",
    "sparsity_warmup_epochs",
    "selection",
    "momentum_masking",
  ),
}
"""Of ``experiments.decentralized``, by algorithm."""

_THETAS = ("threshold", "local_steps", "sparsity", "sparsity_warmup_rounds")


def make_decentralized_config(
  config: DecentralizedFlags,
) -> SsgdConfig | GaiaConfig | PeriodicConfig | DgcConfig:
  """The options of paper 004's algorithms."""
  for name, own in OWN_FLAGS.items():
    if name != config.algorithm:
      wrong = [flag for flag in own if getattr(config, flag) is not None]
      if wrong:
        raise UserError(f"--{wrong[0]} belongs to --algorithm={name}; drop it.")
  local, stats = make_local(config), config.batch_stats or "mean"
  match config.algorithm:
    case "bsp":
      # A norm over the joint batch gives the gradient of that, in which every example counts alike.
      weighting = "examples" if NORMS[config.norm].across_nodes else "uniform"
      reduction = config.reduction or "sum"
      return SsgdConfig(local, weighting, batch_stats=stats, reduction=reduction)
    case "gaia":
      # Partitions keep their models, and with them the statistics that no norm wants merged.
      spec = NORMS[config.norm]
      merged = spec.across_nodes or spec.settles or not spec.has_running_statistics
      apart = config.batch_stats is None and not merged
      return GaiaConfig(local, "local" if apart else stats)
    case "fedavg":
      if not config.momentum:
        refuse(config, ("client_momentum",), "--momentum above 0")
      kept = config.client_momentum or ("local" if config.momentum else "reset")
      return PeriodicConfig(local, kept, stats)
    case _:
      if not config.momentum:
        refuse(config, ("momentum_masking",), "--momentum above 0")
      masking = given(config.momentum_masking, True)
      return DgcConfig(local, stats, config.selection or "exact", masking)


_SCOUT_FLAGS = ("scout_grid", "scout_start", "scout_lambda_al", "scout_lambda_c", "scout_sigma_al")


def make_dial(config: DecentralizedFlags) -> Dial | None:
  """What sets theta; None for BSP, which has none, unless the accuracy loss is to be measured."""
  rounds = config.rounds
  scout = _make_scout(config)
  match config.algorithm:
    case "bsp":
      return Dial(np.zeros(rounds, np.float32), scout=scout) if scout else None
    case "dgc":
      final = given(config.sparsity, STAGES[-1])
      if not 0 <= final < 1:
        raise UserError(f"--sparsity is {final}; it must be from 0 to below 1.")
      each = given(config.sparsity_warmup_rounds, 0)
      return Dial(stages(rounds, STAGES, each, final), scout=scout)
    case _:
      theta = _theta(config)
      values = np.full(rounds, theta, np.float32)
      return Dial(values, follows_rate=config.algorithm == "gaia", scout=scout)


def _theta(config: DecentralizedFlags) -> float:
  """The theta that does not change, but for Gaia's with the rate."""
  match config.algorithm:
    case "gaia":
      return given(config.threshold, 0.1)
    case "fedavg":
      return float(given(config.local_steps, 20))
    case _:
      return 0.0


def _make_scout(config: DecentralizedFlags) -> SkewScout | None:
  name, whole = config.algorithm, config.algorithm == "fedavg"
  if config.skewscout == "off":
    refuse(config, ("scout_every", "scout_examples", *_SCOUT_FLAGS), "--skewscout")
    refuse(config, ("scout_temperature",), "--skewscout=annealing")
    return None
  every = given(config.scout_every, 500)
  if config.skewscout == "measure":
    refuse(config, _SCOUT_FLAGS, "a search as --skewscout")
    return _in_time(config, SkewScout((_theta(config),), search=None, every=every, whole=whole))
  if name == "bsp":
    raise UserError(
      f"bsp always sends everything, so --skewscout={config.skewscout} has nothing to choose; use "
      "another --algorithm, or --skewscout=measure."
    )
  refuse(config, _THETAS, "--skewscout=off or measure")
  if config.skewscout != "annealing":
    refuse(config, ("scout_temperature",), "--skewscout=annealing")
  grid = GRIDS[name]
  if config.scout_grid is not None:
    grid = numbers(config, "scout_grid")
    least, most = (1.0, np.inf) if whole else (0.0, 1.0 if name == "dgc" else np.inf)
    if not all(least <= theta < most and (not whole or theta.is_integer()) for theta in grid):
      raise UserError(f"--scout_grid is {config.scout_grid!r}, not all of it a theta of {name}.")
  start = given(config.scout_start, grid[0])
  if start not in grid:
    raise UserError(f"--scout_start is {start:g}, which the grid {grid} lacks.")
  scout = SkewScout(
    grid,
    name == "dgc",
    config.skewscout,
    grid.index(start),
    every,
    whole,
    given(config.scout_lambda_al, 50.0),
    given(config.scout_lambda_c, 1.0),
    given(config.scout_sigma_al, 0.05),
    given(config.scout_temperature, 0.5),
  )
  return _in_time(config, scout)


def _in_time(config: DecentralizedFlags, scout: SkewScout) -> SkewScout:
  first = scout.check().init().next_look
  if first > config.rounds:
    raise UserError(
      f"SkewScout first looks after {first} rounds, which a run of {config.rounds} never reaches; "
      "lower --scout_every."
    )
  return scout
