"""Lengths in epochs, and rates in proportion to the joint batch."""

import dataclasses
from typing import ClassVar, Self

from fedjax_norm.errors import UserError
from fedjax_norm.options import option
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.config.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class EpochsConfig(Schedule, LoopConfig):
  """The length and the rate of a run whose rounds are steps of one joint model.

  An epoch takes as many rounds as all training examples last.
  """

  group = "training"
  usual: ClassVar[tuple[int, int]] = (600, 50)
  """Rounds of a run, and between two evaluations, where neither is given."""

  # None until ``resolve`` fills them in.
  rounds: int = option(None, "Steps of the joint model; 600 if not given, of asgd 3000.", least=1)
  eval_every: int = option(
    None,
    "Rounds between two evaluations, or epochs with --epochs; if not given, one epoch with "
    "--epochs, else 50 rounds, of asgd 250.",
    least=1,
  )
  epochs: int | None = option(
    None,
    "Passes over all training examples, in place of --rounds; --eval_every and --lr_boundaries "
    "then count epochs too.",
    least=1,
  )
  lr_warmup_epochs: int | None = option(
    None, "Epochs of warm-up, in place of --lr_warmup_rounds.", least=1, needs="epochs"
  )
  scale_lr_from: int | None = option(
    None,
    "Linear scaling: --lr is meant for a joint batch of this size, and grows with the real one.",
    least=1,
  )

  @property
  def follows_data(self) -> bool:
    """Whether the rate or the length in force follows from the data."""
    return self.epochs is not None or self.scale_lr_from is not None

  @property
  def warms_up(self) -> bool:
    """Whether the rate rises at the beginning."""
    return bool(self.lr_warmup_rounds or self.lr_warmup_epochs)

  def check(self) -> None:
    """Refuses a length that is given in epochs and in rounds."""
    if self.epochs is not None and self.rounds is not None:
      raise UserError("--epochs and --rounds both give the length of the run; drop one of them.")
    if self.lr_warmup_epochs is not None and self.lr_warmup_rounds:
      raise UserError(
        "--lr_warmup_epochs and --lr_warmup_rounds both give the length of the warm-up; drop one "
        "of them."
      )

  def resolve(self, round_examples: int, examples: int) -> Self:
    """The same with lengths in rounds and the rate in force; a second time changes nothing.

    Args:
      round_examples: the examples of a step of the joint model.
      examples: the training examples of all clients.
    """
    rate, start = self.lr, self.lr_warmup_from
    if self.scale_lr_from is not None:
      rate *= round_examples / self.scale_lr_from
      if start is None and rate > self.lr and self.warms_up:
        start = self.lr
    config = dataclasses.replace(self, lr=rate, lr_warmup_from=start, scale_lr_from=None)
    if config.epochs is None:
      rounds, every = self.usual
      return dataclasses.replace(
        config, rounds=config.rounds or rounds, eval_every=config.eval_every or every
      )
    epoch = -(-examples // round_examples)
    return dataclasses.replace(
      config,
      rounds=config.epochs * epoch,
      eval_every=(config.eval_every or 1) * epoch,
      lr_boundaries=tuple(at * epoch if at >= 1 else at for at in config.lr_boundaries),
      lr_warmup_rounds=config.lr_warmup_rounds or (config.lr_warmup_epochs or 0) * epoch,
      epochs=None,
      lr_warmup_epochs=None,
    )
