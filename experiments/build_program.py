"""From the flags to the program of a run, whatever its algorithm."""

import functools
from collections.abc import Callable
from typing import Any

from experiments.algorithm_flags import SsgdFlags, TurnFlags
from experiments.build_schedule import make_loop, make_plateau, make_schedule
from experiments.checks import given, refuse
from experiments.config import Config
from fedjax_norm import numerals
from fedjax_norm.errors import UserError
from fedjax_norm.training.diagnose import DiagnosticsConfig
from fedjax_norm.training.freezing import FreezeConfig
from fedjax_norm.training.personalise import FineTune
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
  return functools.partial(
    make,
    config=algorithm,
    loop=make_loop(config, config.seed),
    schedule=make_schedule(config),
    **make_options(config),
    **options,
  )


def make_options(config: Config) -> dict[str, Any]:
  """What the program of every algorithm takes (see ``assemble.assemble``)."""
  return {
    "freeze": make_freeze(config),
    "plateau": make_plateau(config),
    "eval_batch_size": config.eval_batch_size,
    "evaluate_clients": config.evaluate_clients,
    "data_on": config.data_on,
    "diagnostics": make_diagnostics(config),
    "fine_tune": make_fine_tune(config),
    **({"network": config.network} if config.network else {}),
  }


def make_mapping(config: Config) -> dict[str, Any]:
  """How nodes are mapped, for algorithms of which several compute at a time."""
  return {"backend": config.backend, "chunk": config.chunk}


_FREEZE_FLAGS = (
  "freeze_round",
  "freeze_lr_factor",
  "freeze_clip_norm",
  "freeze_affine",
  "freeze_tolerance",
)


def make_freeze(config: Config) -> FreezeConfig | None:
  """FixBN's second stage, or None for other norms."""
  if config.norm != "fixbn":
    refuse(config, _FREEZE_FLAGS, "--norm=fixbn")
    return None
  text = given(config.freeze_round, "half")
  at: int | str = text
  if text not in ("half", "auto"):
    try:
      at = numerals.whole(text)
    except ValueError:
      raise UserError(f"--freeze_round is {text!r}; give a round, half or auto.") from None
  if at != "auto":
    refuse(config, ("freeze_tolerance",), "--freeze_round=auto")
  return FreezeConfig(
    at,
    given(config.freeze_lr_factor, 1.0),
    config.freeze_clip_norm,
    config.freeze_affine,
    given(config.freeze_tolerance, 0.1),
  )


def make_diagnostics(config: Config) -> DiagnosticsConfig | None:
  """How much diagnostics look at, or None where they are not asked for."""
  if not config.diagnostics:
    refuse(config, ("diagnostics_layer", "diagnostics_batches"), "--diagnostics")
    return None
  return DiagnosticsConfig(config.diagnostics_layer, given(config.diagnostics_batches, 100))


def make_fine_tune(config: Config) -> FineTune | None:
  """What clients do with the model before they are tested, or None."""
  if config.fine_tune_steps is None:
    refuse(config, ("fine_tune_lr",), "--fine_tune_steps")
    return None
  return FineTune(config.fine_tune_steps, given(config.fine_tune_lr, config.lr))


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
