"""The options of ``experiments.split``."""

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
  """Options of ``experiments.split``."""

  group = "algorithm"

  members: str | None = option(  # type: ignore[misc]
    None,
    "An ensemble of models that vote, instead of --model: MODEL:CUT of each member, as in "
    "tiny:conv1,lenet:conv1, or MODEL:CUT:TAIL in the U-shape.",
  )
  labelled: float | None = option(  # type: ignore[misc]
    None,
    "The share of the training examples whose labels are known; all of them by default.",
    needs="autoencoder",
  )
  step_by_step: bool = option(
    False,
    "Compile each party separately and make every message an object; this is slower and writes "
    "messages.csv.",
  )

  def check(self) -> None:
    """Raises ``UserError`` if options contradict each other or would have no effect."""
    if self.members is None:
      return
    if self.model != ModelConfig.model:
      raise UserError(f"--members already names the models; drop --model={self.model}.")
    for name in ("cut", "tail", "relays", "autoencoder"):
      if getattr(self, name) not in (None, self.members_tail):
        raise UserError(
          f"--{name} applies to a single model, but --members has several, each with a cut; drop "
          "one of them."
        )

  @property
  def single_client(self) -> bool:
    """Whether there is one client. False on the wire, where others can join to predict."""
    return self.row is not None and self.clients == 1

  @property
  def members_tail(self) -> str | None:
    """The last stage of the server in a U-shaped ensemble; None otherwise."""
    if self.members is None:
      return None
    return STAGES[1] if parse_members(self.members, self.make_norm(self.rounds))[0].tail else None

  @property
  def one_device(self) -> bool:
    """Whether clients run sequentially on one device."""
    return self.step_by_step or super().one_device

  @property
  def depends_on_seed(self) -> bool:
    """Whether the compiled program depends on the seed."""
    return self.step_by_step or super().depends_on_seed

  @property
  def model_name(self) -> str:
    """The model's name, or the names of an ensemble's members."""
    if self.members is None:
      return self.model
    return "+".join(member.partition(":")[0] for member in self.members.split(","))

  def fill_defaults(self, spec: Any, all_clients: bool) -> Self:
    """Returns the options with the defaults that depend on the norm and the cohort filled in."""
    config = super().fill_defaults(spec, all_clients)
    return dataclasses.replace(config, tail=config.tail or config.members_tail)


def make(task: Task, config: Any) -> Program:
  """Returns the training program of split learning."""
  build = make_message_program if config.step_by_step else train.make_program
  return build(config.row, task, config)


ALGORITHM = choice_of(
  "algorithm", {method.name: method for method in (SPLIT, SPLITFED_V1, SPLITFED_V2)}, SplitFlags
)
