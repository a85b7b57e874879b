"""Federated averaging with any norm: ``python -m experiments.fedavg --norm=fixbn --clients=10``.

The defaults are the hardest case: digits, ten clients that hold one class each, one local step of
SGD a round. ``--help`` lists the flags; ``--flagfile=experiments/presets/NAME.flags`` is a preset.
"""

from collections.abc import Callable

from experiments import app, build_algorithms, build_program, training
from experiments.algorithm_flags import FedAvgFlags
from fedjax_norm.training.program import Program
from fedjax_norm.training.programs import make_fedavg
from fedjax_norm.training.task import Task


def prepare(config: FedAvgFlags) -> Callable[[Task], Program]:
  """FedAvg as the flags say."""
  return build_program.program(
    make_fedavg,
    build_algorithms.make_fedavg_config(config),
    config,
    **build_program.make_mapping(config),
  )


def main(config: FedAvgFlags) -> None:
  """Runs FedAvg with one seed or several."""
  training.run(config, prepare)


if __name__ == "__main__":
  app.run(main, FedAvgFlags)
