"""Prepares a public data set: ``python -m experiments.fetch --dataset=cifar10 --archive=PATH``.

Reads the official archive of CIFAR-10, MNIST or Tiny-ImageNet, which must be downloaded before, and
writes the data set into ``--data_dir``, where ``--data=NAME --data_dir=DIR`` finds it. Images keep
their values. Without ``--archive``, an error says what to download. TensorFlow is not needed.
"""

import dataclasses
from pathlib import Path

from fedjax_norm.cli.app import run_plain
from fedjax_norm.data.archives.registry import ARCHIVES, prepare
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class FetchFlags(Options):
  """Options of ``experiments.fetch``."""

  group = "data set"

  dataset: str | None = option(None, "The data set.", choices=tuple(ARCHIVES))
  archive: str | None = option(None, "The official archive, or the folder that holds it.")
  data_dir: str | None = option(None, "The folder of prepared data sets, which is made if needed.")


def run(flags: FetchFlags) -> None:
  """Prepares the data set, and prints its numbers of images.

  Raises:
    UserError: an option is missing, or the archive cannot be used.
  """
  if flags.dataset is None or flags.data_dir is None:
    raise UserError("give --dataset and --data_dir, and as --archive what you have downloaded.")
  counts = prepare(flags.dataset, flags.archive, str(Path(flags.data_dir).expanduser()))
  numbers = " and ".join(f"{count:,} {split}" for split, count in (counts or {}).items())
  state = f"is prepared in {flags.data_dir}: {numbers} images" if counts else "was there already"
  print(f"{flags.dataset} {state}; use it by --data={flags.dataset} --data_dir={flags.data_dir}")


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  run_plain(run, FetchFlags, __doc__)
