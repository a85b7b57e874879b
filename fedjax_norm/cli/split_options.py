"""The options of ``experiments.split``."""

import dataclasses
from typing import Any, Self

from fedjax_norm.cli import train
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.method_choice import choice_of
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
    "Turns on an ensemble of models that vote, instead of --model: a list of MODEL:CUT, as in "
    "tiny:conv1,lenet:conv1, or MODEL:CUT:TAIL with the --cut and --tail of each model.",
  )
  labelled: float | None = option(  # type: ignore[misc]
    None,
    "The share of the training examples that have a known label; by default all have one.",
    needs="autoencoder",
  )
  step_by_step: bool = option(
    False,
    "Compiles client and server separately and counts every message between them in messages.csv. "
    "The results are those of the default, one faster program.",
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
          f"--{name}, or use --model instead of --members."
        )

  @property
  def single_client(self) -> bool:
    """Whether there is only one client; False in a networked run, which others can join."""
    return self.row is not None and self.clients == 1

  @property
  def members_tail(self) -> str | None:
    """The last stage of the server in a U-shaped ensemble; None otherwise."""
    members = parse_members(self.members, self.make_norm(self.rounds))
    return STAGES[1] if members and members[0].tail else None

  @property
  def one_device(self) -> bool:
    """Whether clients train sequentially on one device."""
    return self.step_by_step or super().one_device

  @property
  def depends_on_seed(self) -> bool:
    """Whether the compiled program depends on the seed."""
    return self.step_by_step or super().depends_on_seed

  @property
  def model_name(self) -> str:
    """The model's name, or the names of an ensemble's models, joined by +."""
    if self.members is None:
      return self.model
    return "+".join(member.partition(":")[0] for member in self.members.split(","))

  def fill_defaults(self, spec: Any, all_clients: bool) -> Self:
    """Returns the options with the defaults that depend on the norm and the cohorts filled in."""
    config = super().fill_defaults(spec, all_clients)
    return dataclasses.replace(config, tail=config.tail or config.members_tail)


def make(task: Task, config: Any) -> Program:
  """Returns the training program of split learning for a task."""
  build = make_message_program if config.step_by_step else train.make_program
  return build(config.row, task, config)


ALGORITHM = choice_of(
  "algorithm", {method.name: method for method in (SPLIT, SPLITFED_V1, SPLITFED_V2)}, SplitFlags
)
