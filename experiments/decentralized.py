"""Communication-saving learning: ``python -m experiments.decentralized --algorithm=gaia``.

BSP, Gaia, FedAvg and DGC as paper 004 compares them, a round being a mini-batch of every partition.
``--skewscout=hill`` lets SkewScout choose how much they communicate. Gaia, DGC and BSP add up the
partitions' updates, FedAvg averages models: at one ``--lr`` the first three take steps as many
times as large as there are partitions.
"""

from collections.abc import Callable

from experiments import app, build_decentralized, build_program, training
from experiments.decentralized_flags import DecentralizedFlags
from fedjax_norm.options import with_defaults
from fedjax_norm.training.decentralized import make_dgc, make_gaia, make_periodic
from fedjax_norm.training.program import Program
from fedjax_norm.training.programs import make_ssgd
from fedjax_norm.training.task import Task

CONFIG = with_defaults(DecentralizedFlags, lr=0.01)

_MAKE: dict[str, Callable[..., Program]] = {
  "bsp": make_ssgd,
  "gaia": make_gaia,
  "fedavg": make_periodic,
  "dgc": make_dgc,
}


def prepare(config: DecentralizedFlags) -> Callable[[Task], Program]:
  """The algorithm as the flags say."""
  options = build_program.make_mapping(config)
  if dial := build_decentralized.make_dial(config):
    options["dial"] = dial
  if config.scout_examples is not None:
    options["travel_examples"] = config.scout_examples
  algorithm = build_decentralized.make_decentralized_config(config)
  return build_program.program(_MAKE[config.algorithm], algorithm, config, **options)


def main(config: DecentralizedFlags) -> None:
  """Runs the algorithm with one seed or several."""
  training.run(config, prepare)


if __name__ == "__main__":
  app.run(main, CONFIG)
