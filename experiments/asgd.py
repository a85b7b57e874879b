"""Asynchronous SGD on a simulated clock: ``python -m experiments.asgd --network=wan --clients=10``.

Workers of unequal speed send gradients whenever they are ready, and the master makes a step with
each; a round is one arrival. ``--delay_compensation`` corrects late gradients (Zheng et al. 2017).
"""

from collections.abc import Callable

from experiments import app, build_algorithms, build_program, training
from experiments.algorithm_flags import AsgdFlags
from fedjax_norm.errors import UserError
from fedjax_norm.options import with_defaults
from fedjax_norm.training.program import Program
from fedjax_norm.training.programs import make_asgd
from fedjax_norm.training.task import Task

CONFIG = with_defaults(AsgdFlags, backend="scan", network="lan", momentum=0.0)


def prepare(config: AsgdFlags) -> Callable[[Task], Program]:
  """Asynchronous SGD as the flags say."""
  if config.backend not in ("auto", "scan") or config.chunk is not None:
    raise UserError("one worker of asynchronous SGD computes at a time; drop --backend, --chunk.")
  return build_program.program(make_asgd, build_algorithms.make_asgd_config(config), config)


def main(config: AsgdFlags) -> None:
  """Runs asynchronous SGD with one seed or several."""
  training.run(config, prepare)


if __name__ == "__main__":
  app.run(main, CONFIG)
