"""What an epoch of SSGD sends, for every norm and model: ``python -m experiments.communication``.

A worker sends its gradient once a step, and under distributed BN two more messages for every norm
layer. Two ways of counting those stand side by side. Ours: the moments forward (count, mean and m2)
and the two sums that the exact gradient needs backward. Paper 000's (sec. 4.2): the mean and the
variance forward, in one exchange after the other, and nothing backward. Both make 2 n + 1 round
trips a step with n norm layers; bytes are those of the messages.
"""

import dataclasses
from pathlib import Path

from fedjax_norm import models
from fedjax_norm.cli.app import run_plain
from fedjax_norm.cli.communication_table import epoch_table, table, write
from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class CommunicationFlags(Options):
  """What an epoch is counted for."""

  clients: int = option(10, "Workers.", least=1)
  batch_size: int = option(32, "Examples of a worker's step.", least=1)
  examples: int = option(50_000, "Training examples of all workers.", least=1)
  image_size: int = option(32, "Height and width of an image, in pixels.", least=1)
  channels: int = option(3, "Channels of an image.", least=1)
  classes: int = option(10, "How many classes there are.", least=1)
  models: str = option(",".join(models.MODELS), "The models, separated by commas.")
  output: str | None = option(None, "A CSV file to write the table to.")


def run(config: CommunicationFlags) -> None:
  """Prints the table of the models that the flags name.

  Raises:
    UserError: a model that is unknown or does not fit its images.
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
  """Runs the binary on the command line's flags, and exits."""
  run_plain(run, CommunicationFlags)
