"""The configuration of a run, which has the options of all groups."""

import dataclasses
import zlib
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from fedjax_norm.algorithms.statistics import POLICIES
from fedjax_norm.clock import NetworkConfig
from fedjax_norm.errors import UserError
from fedjax_norm.norm import NormConfig
from fedjax_norm.options import option
from fedjax_norm.training.evaluation_config import EvaluationConfig
from fedjax_norm.training.freezing import FreezeConfig
from fedjax_norm.training.loop_config import LoopConfig
from fedjax_norm.training.machine import MachineConfig, RunConfig
from fedjax_norm.training.schedule import Schedule
from fedjax_norm.training.task_config import TaskConfig


@dataclasses.dataclass(frozen=True)
class Config(
  RunConfig,
  NetworkConfig,
  MachineConfig,
  EvaluationConfig,
  Schedule,
  LoopConfig,
  FreezeConfig,
  TaskConfig,
):
  """The options of every run; ``--help`` lists them from the last group to the first."""

  group = "algorithm"

  # Not flags: what trains, and whether over several processes.
  algorithm = ""
  several_processes = True
  members: ClassVar[str | None] = None
  labelled: ClassVar[float | None] = None

  # Of the algorithm.
  batch_size: int = option(32, "Examples of a client's step.", least=1)
  accumulate: int = option(
    1, "Parts in which a batch goes through the model, one after another; gradients add up."
  )
  momentum: float = option(
    0.9,
    "The momentum of SGD: of FedAvg's clients, of the server of SSGD, of both sides of a cut.",
  )
  nesterov: bool = option(False, "Whether the momentum looks ahead.")
  weight_decay: float = option(5e-4, "The weight decay of the same SGD.")
  clip_norm: float = option(0.0, "The greatest norm of a gradient; 0 for no clipping.")
  batch_stats: str | None = option(
    None,
    "How running statistics are combined: mean (default), moments (keeps the variance between "
    "clients), local (SiloBN), recalibrate.",
    choices=POLICIES,
  )

  def round_examples(self, clients: int) -> int:
    """The examples of a step of all clients."""
    return self.batch_size * clients

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

  def steps_of_a_round(self, sizes: np.ndarray) -> int | np.ndarray:
    """The local steps of each client in a round, for all clients or [K].

    Args:
      sizes: [K] the examples of each.
    """
    del sizes
    return 1

  @property
  def model_name(self) -> str:
    """What the model is called in titles."""
    return self.model

  @property
  def one_device(self) -> bool:
    """Whether clients run one after another."""
    return False

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
    given = {key: value for key, value in dataclasses.asdict(self).items() if key not in apart}
    if self.network and Path(self.network).is_file():
      given["network"] = f"{self.network} {zlib.crc32(Path(self.network).read_bytes()):08x}"
    return {**given, "algorithm": self.algorithm}
