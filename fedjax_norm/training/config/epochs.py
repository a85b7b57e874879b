"""Options of methods that train one joint model: length in epochs, scaling of the learning rate."""

import dataclasses
from typing import ClassVar, Self

from fedjax_norm.errors import UserError
from fedjax_norm.options import option
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.config.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class EpochsConfig(Schedule, LoopConfig):
  """Run length and learning rate of a method whose rounds are steps of one joint model.

  An epoch has ceil(training examples of all clients / examples per round) rounds.
  """

  group = "training"
  usual: ClassVar[tuple[int, int]] = (600, 50)
  """Default numbers of rounds of a run and between two evaluations."""

  # ``resolve`` replaces None by the default.
  rounds: int = option(
    None, "Number of rounds (steps of the joint model); 600 by default, 3000 for asgd.", least=1
  )
  eval_every: int = option(
    None,
    "Rounds between two evaluations (epochs with --epochs); by default 50 rounds, 250 rounds for "
    "asgd, or one epoch with --epochs.",
    least=1,
  )
  epochs: int | None = option(
    None,
    "Length of the run in passes over all training examples, instead of --rounds; --eval_every and "
    "--lr_boundaries then count epochs too. By default --rounds gives the length.",
    least=1,
  )
  lr_warmup_epochs: int | None = option(
    None,
    "Length of the learning rate's warm-up in epochs, instead of --lr_warmup_rounds; by default "
    "there is no warm-up.",
    least=1,
    needs="epochs",
  )
  scale_lr_from: int | None = option(
    None,
    "Linear scaling of the learning rate: --lr is for a joint batch of this many examples, and the "
    "run's learning rate is proportional to the size of its joint batch; off by default.",
    least=1,
  )

  @property
  def follows_data(self) -> bool:
    """Whether the learning rate or the run length depends on the data."""
    return self.epochs is not None or self.scale_lr_from is not None

  @property
  def warms_up(self) -> bool:
    """Whether the learning rate has a warm-up."""
    return bool(self.lr_warmup_rounds or self.lr_warmup_epochs)

  def check(self) -> None:
    """Raises a UserError if a length is given both in epochs and in rounds."""
    if self.epochs is not None and self.rounds is not None:
      raise UserError("--epochs and --rounds both give the length of the run; drop --rounds.")
    if self.lr_warmup_epochs is not None and self.lr_warmup_rounds:
      raise UserError(
        "--lr_warmup_epochs and --lr_warmup_rounds both give the length of the warm-up; drop "
        "--lr_warmup_rounds."
      )

  def resolve(self, round_examples: int, examples: int) -> Self:
    """Returns the config with lengths in rounds and with the scaled learning rate."""
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
