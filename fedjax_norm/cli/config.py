"""The configuration of a run, which has the options of all groups."""

import dataclasses
import zlib
from pathlib import Path
from typing import Any, ClassVar, Self

from fedjax_norm import options
from fedjax_norm.algorithms.contract import Method
from fedjax_norm.errors import UserError
from fedjax_norm.local import LocalConfig
from fedjax_norm.norm import NormConfig
from fedjax_norm.training.config import train
from fedjax_norm.training.config.machine import MachineConfig, RunConfig
from fedjax_norm.training.config.train import TrainConfig
from fedjax_norm.training.task.config import TaskConfig


@dataclasses.dataclass(frozen=True)
class Config(RunConfig, MachineConfig, TrainConfig, LocalConfig, TaskConfig):
  """The options of every run; ``--help`` lists them from the last group to the first."""

  # Not flags.
  row: ClassVar[Method | None] = None
  algorithm = ""
  members: ClassVar[str | None] = None
  labelled: ClassVar[float | None] = None

  def in_rounds(self, clients: int, examples: int) -> Self:
    """The same with the lengths and the rate in force; a second time changes nothing.

    Args:
      clients: how many there are.
      examples: the training examples of all of them.
    """
    config = self.resolve(self.round_examples(clients), examples)
    if config.warms_up and config.lr_warmup_from is None:
      return dataclasses.replace(config, lr_warmup_from=0.0)
    return config

  def check(self) -> None:
    """Refuses options that contradict each other."""
    if self.relabelled is not None and (
      self.evaluate_clients or self.fine_tune_steps or self.diagnostics
    ):
      raise UserError(
        "--relabelled keeps the labels of the test set, so clients cannot be tested by their own; "
        "drop it, or --evaluate_clients, --fine_tune_steps and --diagnostics."
      )
    if self.by_pixel and self.num_processes:
      raise UserError(
        "--whiten=zca and --subtract=image need the pixels of all training images, of which each of"
        " several processes reads only its own; drop them or --num_processes."
      )
    if self.batch_stats == "recalibrate" and self.norm_decay != NormConfig.norm_decay:
      raise UserError(
        "--norm_decay does nothing here: --batch_stats=recalibrate replaces the moving averages; "
        "drop one of them."
      )

  @property
  def model_name(self) -> str:
    """What the model is called in titles."""
    return self.model

  @property
  def one_device(self) -> bool:
    """Whether clients run one after another."""
    return self.row is None or self.row.one_by_one(self)

  @property
  def several_processes(self) -> bool:
    """Whether a run may be divided over several processes."""
    return self.row is not None and not self.row.one_process

  def saved(self) -> dict[str, Any]:
    """What identifies a run, as in ``config.json``: all but what changes no result."""
    apart = (
      "workdir",
      "resume",
      "wait_for_workdir",
      "progress",
      "data_on",
      "compilation_cache",
      "coordinator_address",
      "process_id",
      *(() if self.seeds > 1 else ("seeds",)),
    )
    names = [one.name for one in options.of(type(self)) if one.name not in apart]
    given = {name: getattr(self, name) for name in names}
    if self.network and Path(self.network).is_file():
      given["network"] = f"{self.network} {zlib.crc32(Path(self.network).read_bytes()):08x}"
    return {**given, "algorithm": self.algorithm}


def all_but(*shown: str) -> tuple[str, ...]:
  """The options of :class:`Config` to hide in a binary that runs no method and shows only these."""
  return tuple(one.name for one in options.of(Config) if one.name not in shown)


def config_of(method: Method, base: type = Config) -> type[Config]:
  """The class of all options of a binary that runs a method.

  Args:
    method: a row of the registry.
    base: the options besides the method's.
  """
  return train.config_of(method, base)
