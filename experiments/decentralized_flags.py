"""The flags of ``experiments.decentralized``, and of the Oracle that compares its runs."""

import dataclasses
from typing import Self

from experiments.algorithm_flags import StepwiseFlags
from fedjax_norm.algorithms import dgc, periodic, ssgd
from fedjax_norm.control.skewscout import SEARCHES
from fedjax_norm.errors import UserError
from fedjax_norm.options import option

ALGORITHMS = ("bsp", "gaia", "fedavg", "dgc")
"""Of paper 004."""


@dataclasses.dataclass(frozen=True)
class DecentralizedFlags(StepwiseFlags):
  """What a run of paper 004's algorithms is told besides."""

  several_processes = False

  algorithm: str = option(
    "bsp",
    "bsp sends all, gaia what is significant, fedavg averages models now and "
    "then, dgc sends the largest updates.",
    choices=ALGORITHMS,
  )
  reduction: str | None = option(
    None,
    "Of bsp: the sum of the partitions' updates, as gaia and dgc add them up (default), or their "
    "mean, as fedavg has it.",
    choices=ssgd.REDUCTIONS,
  )
  threshold: float | None = option(
    None,
    "Gaia's T_0: updates above this share of a weight are sent; 0.1 by default. It falls "
    "with the learning rate.",
    least=0,
  )
  local_steps: int | None = option(None, "FedAvg's Iter_Local, 20 by default.", least=1)
  client_momentum: str | None = option(
    None, "Of fedavg after an average: local (default) or reset.", choices=periodic.MOMENTA
  )
  sparsity: float | None = option(
    None, "DGC's final s: the share of a tensor that is not sent; 0.999 by default."
  )
  sparsity_warmup_epochs: int | None = option(
    None, "E_warm: epochs of each of DGC's stages 75, 93.75, 98.4375, 99.6 and 99.9%.", least=0
  )
  sparsity_warmup_rounds: int | None = option(None, "The same in rounds; 0 by default.", least=0)
  selection: str | None = option(
    None, "DGC's threshold: exact (default), or that of a sample.", choices=dgc.SELECTIONS
  )
  momentum_masking: bool | None = option(
    None, "Whether what DGC sends loses its momentum; true by default."
  )

  # SkewScout.
  skewscout: str = option(
    "off",
    "Whether models travel to be tested elsewhere, and theta is chosen by how they do: with hill "
    "climbing, stochastic hill climbing or simulated annealing; measure leaves theta alone.",
    choices=("off", "measure", *SEARCHES),
  )
  scout_every: int | None = option(None, "Mini-batches between looks; 500 by default.")
  scout_examples: int | None = option(None, "Training examples a model is tested on; 256.")
  scout_grid: str | None = option(
    None, "The thetas to choose from, with commas; those of tables 6 to 8 by default."
  )
  scout_start: float | None = option(None, "The theta to begin with; the first of the grid.")
  scout_lambda_al: float | None = option(None, "The weight of the accuracy loss; 50 by default.")
  scout_lambda_c: float | None = option(None, "The weight of communication; 1 by default.")
  scout_sigma_al: float | None = option(None, "The accuracy loss tolerated; 0.05 by default.")
  scout_temperature: float | None = option(
    None, "Of annealing at the first look; 0.5 by default, and 0.9 of it at every further look."
  )

  def check(self) -> None:
    """Refuses a warm-up that is given in epochs and in rounds."""
    if self.sparsity_warmup_epochs is not None and self.sparsity_warmup_rounds is not None:
      raise UserError("give --sparsity_warmup_epochs or --sparsity_warmup_rounds, not both.")

  def resolve(self, round_examples: int, examples: int) -> Self:
    """The same with all lengths in rounds (see ``EpochsConfig``)."""
    config = super().resolve(round_examples, examples)
    if config.sparsity_warmup_epochs is None:
      return config
    each = config.sparsity_warmup_epochs * -(-examples // round_examples)
    return dataclasses.replace(config, sparsity_warmup_epochs=None, sparsity_warmup_rounds=each)


@dataclasses.dataclass(frozen=True)
class OracleFlags(DecentralizedFlags):
  """What the Oracle of paper 004 is told besides."""

  oracle_tolerance: float = option(1.0, "Points of accuracy below BSP's that count as equal.")
  oracle_fractions: str = option(
    "0.2,0.6,1.0", "Degrees of skew: the shares of the data that are divided by label."
  )
