"""The flags of ``experiments.split``."""

import dataclasses
from typing import Any, Self

from fedjax_norm.cli import train
from fedjax_norm.cli.choice import choice_of
from fedjax_norm.cli.config import Config
from fedjax_norm.errors import UserError
from fedjax_norm.models.ensemble import STAGES
from fedjax_norm.models.registry import ModelConfig
from fedjax_norm.options import option
from fedjax_norm.split.algorithm import SPLIT, SPLITFED_V1, SPLITFED_V2
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.ensemble_members import parse_members
from fedjax_norm.training.program_types import Program
from fedjax_norm.training.split_by_messages import make_message_program
from fedjax_norm.training.task.task import Task


@dataclasses.dataclass(frozen=True)
class SplitFlags(SplitConfig, Config):
  """The options of split learning in this binary."""

  group = "algorithm"

  members: str | None = option(  # type: ignore[misc]
    None,
    "An ensemble that trains in one exchange and votes, in place of --model: MODEL:CUT of each "
    "member with commas, as in tiny:conv1,lenet:conv1, or MODEL:CUT:TAIL in the U-shape.",
  )
  labelled: float | None = option(  # type: ignore[misc]
    None,
    "The share of the training examples whose labels are known; all of them by default.",
    needs="autoencoder",
  )
  step_by_step: bool = option(
    False,
    "Compile every party by itself and make each message an object: slower, and the messages are "
    "listed in messages.csv.",
  )

  def check(self) -> None:
    """Refuses options that contradict each other or would do nothing."""
    if self.members is None:
      return
    if self.model != ModelConfig.model:
      raise UserError(f"--members names the models itself; drop --model={self.model}.")
    for name in ("cut", "tail", "relays", "autoencoder"):
      if getattr(self, name) not in (None, self.members_tail):
        raise UserError(
          f"--{name} is of one model, and --members has several, each with its own cut; drop one "
          "of them."
        )

  @property
  def single_client(self) -> bool:
    """Whether there is one client; on a wire others may come to predict."""
    return self.row is not None and self.clients == 1

  @property
  def members_tail(self) -> str | None:
    """The last stage of the server in an ensemble in the U-shape; None otherwise."""
    if self.members is None:
      return None
    return STAGES[1] if parse_members(self.members, self.make_norm(self.rounds))[0].tail else None

  @property
  def one_device(self) -> bool:
    """Whether clients run one after another."""
    return self.step_by_step or super().one_device

  @property
  def depends_on_seed(self) -> bool:
    """Whether the compiled program depends on the seed."""
    return self.step_by_step or super().depends_on_seed

  @property
  def model_name(self) -> str:
    """The members' names, of an ensemble."""
    if self.members is None:
      return self.model
    return "+".join(member.partition(":")[0] for member in self.members.split(","))

  def fill_defaults(self, spec: Any, all_clients: bool) -> Self:
    """The options in force."""
    config = super().fill_defaults(spec, all_clients)
    return dataclasses.replace(config, tail=config.tail or config.members_tail)


def make(task: Task, config: Any) -> Program:
  """The program of split learning."""
  maker = make_message_program if config.step_by_step else train.make_program
  return maker(config.row, task, config)


ALGORITHM = choice_of(
  "algorithm", {method.name: method for method in (SPLIT, SPLITFED_V1, SPLITFED_V2)}, SplitFlags
)
