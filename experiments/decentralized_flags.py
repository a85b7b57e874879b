"""The flags of ``experiments.decentralized``, and of the Oracle that compares its runs."""

import dataclasses

from experiments.algorithm_flags import StepwiseFlags
from experiments.fields import boolean, choice, integer, number, string
from fedjax_norm.algorithms import dgc, periodic, ssgd
from fedjax_norm.control.skewscout import SEARCHES

ALGORITHMS = ("bsp", "gaia", "fedavg", "dgc")
"""Of paper 004."""


@dataclasses.dataclass(frozen=True)
class DecentralizedFlags(StepwiseFlags):
  """What a run of paper 004's algorithms is told besides."""

  several_processes = False

  algorithm: str = choice(
    "bsp",
    ALGORITHMS,
    "bsp sends all, gaia what is significant, fedavg averages models now and "
    "then, dgc sends the largest updates.",
  )
  reduction: str | None = choice(
    None,
    ssgd.REDUCTIONS,
    "Of bsp: the sum of the partitions' updates, as gaia and dgc add them up (default), or their "
    "mean, as fedavg has it.",
  )
  threshold: float | None = number(
    None,
    "Gaia's T_0: updates above this share of a weight are sent; 0.1 by default. It falls "
    "with the learning rate.",
  )
  local_steps: int | None = integer(None, "FedAvg's Iter_Local, 20 by default.")
  client_momentum: str | None = choice(
    None, periodic.MOMENTA, "Of fedavg after an average: local (default) or reset."
  )
  sparsity: float | None = number(
    None, "DGC's final s: the share of a tensor that is not sent; 0.999 by default."
  )
  sparsity_warmup_epochs: int | None = integer(
    None, "E_warm: epochs of each of DGC's stages 75, 93.75, 98.4375, 99.6 and 99.9%."
  )
  sparsity_warmup_rounds: int | None = integer(None, "The same in rounds; 0 by default.")
  selection: str | None = choice(
    None, dgc.SELECTIONS, "DGC's threshold: exact (default), or that of a sample."
  )
  momentum_masking: bool | None = boolean(
    None, "Whether what DGC sends loses its momentum; true by default."
  )

  # SkewScout.
  skewscout: str = choice(
    "off",
    ("off", "measure", *SEARCHES),
    "Whether models travel to be tested elsewhere, and theta is chosen by how they do: with hill "
    "climbing, stochastic hill climbing or simulated annealing; measure leaves theta alone.",
  )
  scout_every: int | None = integer(None, "Mini-batches between looks; 500 by default.")
  scout_examples: int | None = integer(None, "Training examples a model is tested on; 256.")
  scout_grid: str | None = string(
    None, "The thetas to choose from, with commas; those of tables 6 to 8 by default."
  )
  scout_start: float | None = number(None, "The theta to begin with; the first of the grid.")
  scout_lambda_al: float | None = number(None, "The weight of the accuracy loss; 50 by default.")
  scout_lambda_c: float | None = number(None, "The weight of communication; 1 by default.")
  scout_sigma_al: float | None = number(None, "The accuracy loss tolerated; 0.05 by default.")
  scout_temperature: float | None = number(
    None, "Of annealing at the first look; 0.5 by default, and 0.9 of it at every further look."
  )


@dataclasses.dataclass(frozen=True)
class OracleFlags(DecentralizedFlags):
  """What the Oracle of paper 004 is told besides."""

  oracle_tolerance: float = number(1.0, "Points of accuracy below BSP's that count as equal.")
  oracle_fractions: str = string(
    "0.2,0.6,1.0", "Degrees of skew: the shares of the data that are divided by label."
  )
