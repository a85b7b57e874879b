"""From the flags to the program of a run, whatever its algorithm."""

import functools
from collections.abc import Callable
from typing import Any

from experiments.algorithm_flags import SsgdFlags, TurnFlags
from experiments.config import Config
from fedjax_norm.norm import NORMS
from fedjax_norm.training.program import Program
from fedjax_norm.training.task import Task


def program(
  make: Callable[..., Program], algorithm: Any, config: Config, **options: Any
) -> Callable[[Task], Program]:
  """An algorithm's program as the flags say, but for the task.

  Args:
    make: such as ``programs.make_fedavg``.
    algorithm: its own options.
    config: the flags, lengths in rounds.
    **options: further ones of ``make``.
  """
  config.check_rounds(config.rounds)
  return functools.partial(
    make,
    config=algorithm,
    loop=config,
    schedule=config,
    freeze=config if NORMS[config.norm].settles else None,
    plateau=config.plateau(),
    eval_batch_size=config.eval_batch_size,
    evaluate_clients=config.evaluate_clients,
    data_on=config.data_on,
    diagnostics=config.diagnose(),
    fine_tune=config.fine_tune(config.lr),
    **({"network": config.network} if config.network else {}),
    **options,
  )


def make_mapping(config: Config) -> dict[str, Any]:
  """How nodes are mapped, for algorithms of which several compute at a time."""
  return {"backend": config.backend, "chunk": config.chunk}


def is_of_a_seed(config: Config) -> bool:
  """Whether a program is for one seed or its clients' sizes, so that another seed needs its own."""
  if getattr(config, "autoencoder", None) is not None or getattr(config, "step_by_step", False):
    return True
  if config.network and config.batch_stats == "recalibrate":
    return True
  if isinstance(config, SsgdFlags):
    return config.batch_split == "proportional"
  if isinstance(config, TurnFlags):
    return config.freeze_round == "auto" and config.local_epochs is not None
  return False
