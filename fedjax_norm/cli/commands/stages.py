"""Lists the stages of a model and both sides of each cut: ``python -m experiments.stages``.

The table shows the shape of each stage's output for one example, the output's size in bytes of
float32, and the parameters and training FLOPs per example before and after a cut at the end of the
stage. FLOPs are measured on a batch of 32 and leave out the gradient with respect to the images.
"""

import dataclasses
import math

from fedjax_norm import models, norm
from fedjax_norm.cli.app import run_plain
from fedjax_norm.models.flops import step_flops
from fedjax_norm.models.registry import STEMS
from fedjax_norm.models.stages import describe, position
from fedjax_norm.options import Options, option
from fedjax_norm.training.terminal.tables import columns_table, human_bytes

_BATCH = 32  # more than one example, which BN requires in training


@dataclasses.dataclass(frozen=True)
class StagesFlags(Options):
  """Options of ``experiments.stages``."""

  model: str = option("tiny", "The model.", choices=tuple(models.MODELS))
  norm: str = option("gn", "The norm, with the default number of groups.", choices=norm.NAMES)
  stem: str = option(
    "auto",
    "The first layers of models with two variants: for small images (cifar) or large images "
    "(imagenet); auto decides by the image size.",
    choices=STEMS,
  )
  image_size: int = option(32, "The height and width of an image in pixels.", least=1)
  channels: int = option(3, "The number of channels of an image.", least=1)
  classes: int = option(10, "The number of classes.", least=2)
  cut: str | None = option(
    None, "The cut layer, a stage that the table marks; by default none is marked."
  )


def run(config: StagesFlags) -> None:
  """Prints the table of stages.

  Raises:
    UserError: the model does not fit the images or the norm, or cannot be cut after ``cut``.
  """
  shape = (config.image_size, config.image_size, config.channels)
  model = models.create(config.model, norm.create(config.norm), config.classes, shape, config.stem)
  marked = None if config.cut is None else position(model, config.cut, shape)

  infos = describe(model, shape)
  # FLOPs add up over stages, so each stage is counted once for all cuts.
  training = [
    step_flops(model, shape, i, i + 1, _BATCH, input_gradient=i > 0).training / _BATCH
    for i in range(len(infos))
  ]
  parameters = [info.parameters for info in infos]
  rows = []
  for count, info in enumerate(infos, 1):
    sides = ["-"] * 4  # the model cannot be cut here
    if count < len(infos) and any(parameters[:count]):
      sides = [f"{sum(side):,}" for side in (parameters[:count], parameters[count:])]
      sides += [f"{sum(side):.3g}" for side in (training[:count], training[count:])]
    size = human_bytes(4 * math.prod(info.shape))  # float32
    pixels = "x".join(map(str, info.shape))
    mark = "<--" if count == marked else ""
    rows.append([info.name, pixels, size, f"{info.parameters:,}", *sides, mark])
  head = ["stage", "activation", "bytes", "parameters", "parameters before", "after"]
  head += ["FLOPs before", "after", "cut"]
  print(columns_table(head, rows))


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  run_plain(run, StagesFlags, __doc__)
