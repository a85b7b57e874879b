"""Where a model can be cut, and what each side then has: ``python -m experiments.stages``.

A stage has a line: what it gives for one example, in bytes of float32, and for the cut after it the
parameters of the party before it and of the party behind it and what training takes of each on one
example, in a batch of 32 (``models/flops.py``). The party before computes no gradient of images.
"""

import dataclasses
import math

from fedjax_norm import models, norm
from fedjax_norm.cli.app import run_plain
from fedjax_norm.models.flops import step_flops
from fedjax_norm.models.stages import describe, position
from fedjax_norm.options import Options, option
from fedjax_norm.training.terminal.tables import columns_table, human_bytes

_BATCH = 32  # several examples, for in training a norm of the batch refuses single elements
_FLOAT32 = 4  # bytes


@dataclasses.dataclass(frozen=True)
class StagesFlags(Options):
  """Options of the list of a model's stages."""

  model: str = option("tiny", "Which model.", choices=tuple(models.MODELS))
  norm: str = option("gn", "Its norm, with the model's usual groups.", choices=norm.NAMES)
  stem: str = option("auto", "Of models that have both.", choices=("auto", "cifar", "imagenet"))
  image_size: int = option(32, "Pixels square.", least=1)
  channels: int = option(3, "Of an image.", least=1)
  classes: int = option(10, "Classes.", least=2)
  cut: str | None = option(None, "The stage after which the model is cut; it is marked.")


def run(config: StagesFlags) -> None:
  """Prints the table.

  Raises:
    UserError: a model that does not fit its images or norm, or a cut that cannot be.
  """
  shape = (config.image_size, config.image_size, config.channels)
  model = models.create(config.model, norm.create(config.norm), config.classes, shape, config.stem)
  marked = None if config.cut is None else position(model, config.cut, shape)

  infos = describe(model, shape)
  # A stretch takes what its stages take, so that each is counted once for all cuts.
  training = [
    step_flops(model, shape, i, i + 1, _BATCH, input_gradient=i > 0).training / _BATCH
    for i in range(len(infos))
  ]
  parameters = [info.parameters for info in infos]
  rows = []
  for place, info in enumerate(infos, 1):
    sides = ["-"] * 4  # where nothing can be cut
    if place < len(infos) and any(parameters[:place]):
      sides = [f"{sum(side):,}" for side in (parameters[:place], parameters[place:])]
      sides += [f"{sum(side):.3g}" for side in (training[:place], training[place:])]
    size = human_bytes(_FLOAT32 * math.prod(info.shape))
    pixels = "x".join(map(str, info.shape))
    mark = "<--" if place == marked else ""
    rows.append([info.name, pixels, size, f"{info.parameters:,}", *sides, mark])
  head = ["stage", "activation", "bytes", "parameters", "parameters before", "behind"]
  head += ["FLOPs before", "behind", "cut"]
  print(columns_table(head, rows))


def launch() -> None:
  """Runs the binary on the command line's flags, and exits."""
  run_plain(run, StagesFlags)
