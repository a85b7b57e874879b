"""From the flags to a run's length and its learning rate."""

import dataclasses

from experiments.algorithm_flags import AsgdFlags, StepwiseFlags
from experiments.checks import at_least, given, lengths, numbers, refuse
from experiments.config import Config
from experiments.decentralized_flags import DecentralizedFlags
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.errors import UserError
from fedjax_norm.training.loop_config import LoopConfig
from fedjax_norm.training.schedule import Schedule


def in_rounds(config: Config, clients: int, examples: int) -> Config:
  """The config with its length and rate as numbers, in rounds.

  An epoch is as many rounds as all training examples last. What was used up is left out of the
  result, so that the same again changes nothing.

  Args:
    config: the flags.
    clients: how many.
    examples: all of theirs.

  Raises:
    UserError: a length given in epochs and in rounds.
  """
  at_least(config, 1, "rounds", "eval_every", "batch_size")
  rounds, every = lengths(config)
  if not isinstance(config, StepwiseFlags):
    return dataclasses.replace(config, rounds=rounds, eval_every=every)
  at_once = config.batch_size * (1 if isinstance(config, AsgdFlags) else clients)
  rate, start = config.lr, config.lr_warmup_from
  if config.scale_lr_from is not None:
    at_least(config, 1, "scale_lr_from")
    rate *= at_once / config.scale_lr_from
    if start is None and rate > config.lr and (config.lr_warmup_rounds or config.lr_warmup_epochs):
      start = config.lr
  config = dataclasses.replace(config, lr=rate, lr_warmup_from=start, scale_lr_from=None)
  epoch = -(-examples // at_once)
  if isinstance(config, DecentralizedFlags) and config.sparsity_warmup_epochs is not None:
    at_least(config, 0, "sparsity_warmup_epochs")
    if config.sparsity_warmup_rounds is not None:
      raise UserError("give --sparsity_warmup_epochs or --sparsity_warmup_rounds, not both.")
    each = config.sparsity_warmup_epochs * epoch
    config = dataclasses.replace(config, sparsity_warmup_epochs=None, sparsity_warmup_rounds=each)
  if config.epochs is None:
    refuse(config, ("lr_warmup_epochs",), "--epochs")
    return dataclasses.replace(config, rounds=rounds, eval_every=every)
  at_least(config, 1, "epochs", "lr_warmup_epochs")
  if config.rounds or (config.lr_warmup_rounds and config.lr_warmup_epochs):
    raise UserError("give lengths in epochs or in rounds, not the same one in both.")
  boundaries = config.lr_boundaries
  if boundaries is not None:
    at = (b * epoch if b >= 1 else b for b in numbers(config, "lr_boundaries"))
    boundaries = ",".join(f"{b:.12g}" for b in at)
  return dataclasses.replace(
    config,
    rounds=config.epochs * epoch,
    lr_boundaries=boundaries,
    eval_every=given(config.eval_every, 1) * epoch,
    lr_warmup_rounds=config.lr_warmup_rounds or given(config.lr_warmup_epochs, 0) * epoch,
    epochs=None,
    lr_warmup_epochs=None,
  )


def make_loop(config: Config, seed: int) -> LoopConfig:
  """The run's length and one of its seeds."""
  cohort = getattr(config, "cohort", None)
  for name, value in (("cohort", cohort), ("clients", config.clients)):
    if value is not None and value < 1:
      raise UserError(f"--{name} is {value}; it must be at least 1.")
  return LoopConfig(*lengths(config), given(cohort, 0), seed)


def make_schedule(config: Config) -> Schedule:
  """The learning rate over rounds."""
  kind = config.lr_schedule
  if kind not in ("step", "exponential", "plateau"):
    refuse(config, ("lr_factor",), "--lr_schedule=step, exponential or plateau")
  if not config.lr_warmup_rounds:
    refuse(config, ("lr_warmup_from",), "a warm-up")
  if kind != "polynomial":
    refuse(config, ("lr_power",), "--lr_schedule=polynomial")
  if kind != "step":
    refuse(config, ("lr_boundaries",), "--lr_schedule=step")
  boundaries = numbers(config, "lr_boundaries") if config.lr_boundaries else ()
  rounds, _ = lengths(config)
  if boundaries and max(boundaries) >= rounds:
    raise UserError(
      f"--lr_boundaries has round {max(boundaries):g}, which a run of {rounds} rounds never "
      "reaches."
    )
  if config.lr_warmup_rounds > rounds:
    raise UserError("--lr_warmup_rounds is longer than the run; shorten it.")
  return Schedule(
    config.lr,
    "constant" if kind == "plateau" else kind,
    config.lr_warmup_rounds,
    boundaries,
    given(config.lr_factor, 0.1),
    given(config.lr_power, 1.0),
    given(config.lr_warmup_from, 0.0),
  )


def make_plateau(config: Config) -> Plateau | None:
  """The policy of ``--lr_schedule=plateau``, or None for other schedules."""
  if config.lr_schedule != "plateau":
    refuse(config, ("lr_patience",), "--lr_schedule=plateau")
    return None
  plateau = Plateau(
    given(config.lr_factor, 0.1), given(config.lr_patience, 3), start=config.lr_warmup_rounds
  )
  return plateau.check()
