"""Bytes of an epoch of synchronous SGD: ``python -m experiments.communication``.

The table has a row per model and norm. A worker sends its gradient once per step and, with
distributed BN (sync_bn), two more messages per norm layer, which the table counts in two ways. In
this implementation, the forward pass exchanges count, mean and m2 (the sum of squared differences
from the mean), and the backward pass the two sums that the exact gradient needs. In paper 000
(sec. 4.2), the forward pass exchanges the mean and then the variance, and the backward pass
nothing. With n norm layers, both take 2 n + 1 round trips per step.
"""

import dataclasses
from pathlib import Path

from fedjax_norm import models
from fedjax_norm.cli.app import run_plain
from fedjax_norm.cli.communication_table import epoch_table, table, write
from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class CommunicationFlags(Options):
  """The options of ``experiments.communication``: the size of an epoch, and the models."""

  clients: int = option(10, "Number of workers.", least=1)
  batch_size: int = option(32, "Number of examples per worker and step.", least=1)
  examples: int = option(50_000, "Number of training examples of all workers together.", least=1)
  image_size: int = option(32, "Height and width of an image in pixels.", least=1)
  channels: int = option(3, "Number of channels of an image.", least=1)
  classes: int = option(10, "Number of classes, the outputs of the model.", least=1)
  models: str = option(",".join(models.MODELS), "Names of models, separated by commas.")
  output: str | None = option(
    None, "Path of a CSV file for the table; if unset, the table is only printed."
  )


def run(config: CommunicationFlags) -> None:
  """Prints the table and writes it to ``--output``, if given.

  Raises:
    UserError: a model is unknown or does not fit images of this shape.
  """
  shape = (config.image_size, config.image_size, config.channels)
  steps = -(-config.examples // (config.clients * config.batch_size))
  entries = [
    entry
    for model in config.models.split(",")
    for entry in epoch_table(model.strip(), shape, config.classes, config.clients, steps)
  ]
  print(table(entries))
  if config.output:
    write(entries, Path(config.output))
    print(f"written: {config.output}")


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  run_plain(run, CommunicationFlags, __doc__)
