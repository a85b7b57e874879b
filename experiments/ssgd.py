"""Synchronous SGD over isolated nodes: ``python -m experiments.ssgd --norm=sync_bn --clients=10``.

Algorithm 1 of paper 000: in every round each worker sends the gradient of one batch, and the master
takes one step. ``--help`` lists the flags; ``--flagfile=experiments/presets/NAME.flags`` is a
preset.
"""

from collections.abc import Callable

from experiments import app, build_algorithms, build_program, training
from experiments.algorithm_flags import SsgdFlags
from fedjax_norm.training.program import Program
from fedjax_norm.training.programs import make_ssgd
from fedjax_norm.training.task import Task


def prepare(config: SsgdFlags) -> Callable[[Task], Program]:
  """SSGD as the flags say."""
  return build_program.program(
    make_ssgd,
    build_algorithms.make_ssgd_config(config),
    config,
    **build_program.make_mapping(config),
  )


def main(config: SsgdFlags) -> None:
  """Runs SSGD with one seed or several."""
  training.run(config, prepare)


if __name__ == "__main__":
  app.run(main, SsgdFlags)
