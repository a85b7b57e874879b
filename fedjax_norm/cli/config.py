"""The options that every training binary has, and conditions on several of them."""

import dataclasses
import zlib
from pathlib import Path
from typing import Any, ClassVar, Self

from fedjax_norm import options
from fedjax_norm.algorithms.contract import Method
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import LocalConfig
from fedjax_norm.norm import NormConfig
from fedjax_norm.training.config import train
from fedjax_norm.training.config.machine import MachineConfig, RunConfig
from fedjax_norm.training.config.train import TrainConfig
from fedjax_norm.training.task.config import TaskConfig

FILES = ("network", "pairs")
"""Options that can name a file whose content changes results."""


@dataclasses.dataclass(frozen=True)
class Config(RunConfig, MachineConfig, TrainConfig, LocalConfig, TaskConfig):
  """The options of every run; ``--help`` lists their groups from the last base to the first."""

  # Class attributes, not options. ``row`` is the method in the registry; ``members`` and
  # ``labelled`` are options of split learning, which has its own config class.
  row: ClassVar[Method | None] = None
  algorithm = ""
  members: ClassVar[str | None] = None
  labelled: ClassVar[float | None] = None

  def in_rounds(self, clients: int, examples: int) -> Self:
    """Returns the config with epochs converted to rounds and ``lr`` scaled by ``scale_lr_from``.

    Converting the result again changes nothing.

    Args:
      clients: number of clients.
      examples: number of training examples of all clients.
    """
    config = self.resolve(self.round_examples(clients), examples)
    if config.warms_up and config.lr_warmup_from is None:
      return dataclasses.replace(config, lr_warmup_from=0.0)
    return config

  def check(self) -> None:
    """Raises a UserError if options contradict each other or would have no effect."""
    if self.relabelled is not None and (
      self.evaluate_clients or self.fine_tune_steps or self.diagnostics
    ):
      raise UserError(
        "--relabelled keeps the test labels as they are, so relabelled clients cannot be tested; "
        "drop --relabelled, or else --evaluate_clients, --fine_tune_steps and --diagnostics."
      )
    if self.by_pixel and self.num_processes:
      raise UserError(
        "--whiten=zca or gcn_zca and --subtract=image need all training images, but with "
        "--num_processes each process reads only its clients' images; drop --whiten and "
        "--subtract, or run one process."
      )
    if self.batch_stats == "recalibrate" and self.norm_decay != NormConfig.norm_decay:
      raise UserError(
        "--norm_decay has no effect with --batch_stats=recalibrate, which computes the running "
        "statistics anew; drop --norm_decay, or --batch_stats to average the running statistics."
      )

  @property
  def model_name(self) -> str:
    """Name of the model in reports, titles and folder names."""
    return self.model

  @property
  def one_device(self) -> bool:
    """Whether the method trains its clients sequentially, which uses one device."""
    return self.row is None or self.row.sequential(self)

  @property
  def several_processes(self) -> bool:
    """Whether the method can run on several processes."""
    return self.row is not None and not self.row.one_process

  def saved(self) -> dict[str, Any]:
    """Returns the content of ``config.json``: all options that can change a result.

    The files of ``FILES`` are recorded with their CRC-32, so that a changed file is detected.
    """
    excluded = {"workdir", "resume", "wait_for_workdir", "progress", "data_on", "compilation_cache"}
    excluded |= {"wandb", "wandb_project"}
    excluded |= {"coordinator_address", "process_id", *(() if self.seeds > 1 else ("seeds",))}
    names = [one.name for one in options.of(type(self)) if one.name not in excluded]
    values = {name: getattr(self, name) for name in names}
    for name in FILES:
      if values.get(name) and (file := Path(values[name]).expanduser()).is_file():
        values[name] = f"{values[name]} {zlib.crc32(file.read_bytes()):08x}"
    return {**values, "algorithm": self.algorithm}


def all_but(*shown: str) -> tuple[str, ...]:
  """Returns the value of ``hidden`` that hides all options of ``Config`` except ``shown``."""
  return tuple(one.name for one in options.of(Config) if one.name not in shown)


def config_of(method: Method, base: type = Config) -> type[Config]:
  """Returns the config class of a binary that runs ``method``; ``base`` has all other options."""
  return train.config_of(method, base)
