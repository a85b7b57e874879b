"""The flags of ``experiments.leakage``."""

import dataclasses

from experiments.config import Config, all_but
from fedjax_norm import options
from fedjax_norm.data.partition import PartitionConfig
from fedjax_norm.data.sources import DataConfig
from fedjax_norm.errors import UserError
from fedjax_norm.options import option
from fedjax_norm.training.leakage import LeakageConfig

WHICH_MODEL = (
  *(
    one.name
    for kind in (DataConfig, PartitionConfig)
    for one in options.of(kind)
    if one.name not in ("train_share", "relabelled")
  ),
  "task",
  "standardise",
  "whiten",
  "zca_epsilon",
  "subtract",
  "model",
  "stem",
  "norm",
  "groups",
  "group_size",
  "mean_only_bn",
  "norm_epsilon",
  "compute_dtype",
)
"""What says which model is measured on which data, where no run does."""

_MACHINE = ("seed", "workdir", "wait_for_workdir", "compilation_cache", "progress", "host_devices")


@dataclasses.dataclass(frozen=True)
class LeakageFlags(LeakageConfig, Config):
  """Options of the measurement of leakage."""

  group = "leakage"
  algorithm = "leakage"
  hidden = all_but(*WHICH_MODEL, *_MACHINE)

  untrained: bool = option(
    False, "Whether the model that the run of --workdir began with is measured, not its last one."
  )

  def check(self) -> None:
    """Refuses what would do nothing with the model of a run, or without one."""
    if self.workdir is None and self.untrained:
      raise UserError(
        "--untrained does nothing here: without --workdir the model is untrained; drop it."
      )
    for one in options.of(type(self)) if self.workdir else ():
      if one.name in WHICH_MODEL and getattr(self, one.name) != one.default:
        raise UserError(
          f"--{one.name} does nothing here: the run in --workdir says which model on which data; "
          "drop it."
        )
