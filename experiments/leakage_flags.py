"""The flags of ``experiments.leakage``."""

import dataclasses

from experiments.config import Config
from fedjax_norm import options
from fedjax_norm.data.partition import PartitionConfig
from fedjax_norm.data.sources import DataConfig
from fedjax_norm.options import option

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

_MACHINE = (
  "seed",
  "workdir",
  "wait_for_workdir",
  "compilation_cache",
  "progress",
  "host_devices",
)


@dataclasses.dataclass(frozen=True)
class LeakageFlags(Config):
  """What the measurement of leakage is told."""

  algorithm = "leakage"
  several_processes = False
  one_device = True
  hidden = tuple(
    field.name
    for field in dataclasses.fields(Config)
    if field.name not in (*WHICH_MODEL, *_MACHINE)
  )

  untrained: bool = option(
    False, "Whether the model that the run of --workdir began with is measured, not its last one."
  )
  cuts: str | None = option(
    None,
    "The stages behind which to cut, with commas; all by default (python -m experiments.stages "
    "lists them).",
  )
  examples: int = option(512, "Images that are attacked, at the most.")
  auxiliary: float = option(0.5, "The share of the test images that the attacker has.")
  attack_steps: int = option(1000, "Steps of the attacker's decoder.")
  known_labels: int = option(5, "Training examples of each class whose labels Bob knows.")
