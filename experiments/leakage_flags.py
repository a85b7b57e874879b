"""The flags of ``experiments.leakage``."""

import dataclasses

from experiments.config import Config
from experiments.data_flags import DataFlags
from experiments.fields import boolean, integer, number, string

WHICH_MODEL = (
  *(field.name for field in dataclasses.fields(DataFlags)),
  "task",
  "image_size",
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

  untrained: bool = boolean(
    False, "Whether the model that the run of --workdir began with is measured, not its last one."
  )
  cuts: str | None = string(
    None,
    "The stages behind which to cut, with commas; all by default (python -m experiments.stages "
    "lists them).",
  )
  examples: int = integer(512, "Images that are attacked, at the most.")
  auxiliary: float = number(0.5, "The share of the test images that the attacker has.")
  attack_steps: int = integer(1000, "Steps of the attacker's decoder.")
  known_labels: int = integer(5, "Training examples of each class whose labels Bob knows.")
