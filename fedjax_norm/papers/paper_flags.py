"""The flags of ``experiments.paper``."""

import dataclasses

from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class PaperFlags(Options):
  """Options of ``experiments.paper``."""

  tables: str = option(
    "all",
    "Names of the papers' tables and figures to run, separated by commas, such as 000.1,004.fig5. "
    "004.6 runs all names that begin with '004.6.', and all runs everything.",
  )
  scale: str = option(
    "smoke",
    "Size of the runs: smoke (digits, a few minutes for all), small (CIFAR-10, minutes per run) "
    "or full (the papers' settings, needs a GPU).",
    choices=("smoke", "small", "full"),
  )
  data_dir: str | None = option(
    None,
    "Folder of the prepared TFDS data sets, and of images or CSV indexes for paper 004. The scales "
    "small and full need it.",
  )
  workdir: str | None = option(
    None, "Folder for the runs and the results; runs/paper-SCALE by default."
  )
  wait_for_workdir: bool = option(
    False, "Whether to wait until another process that uses --workdir has ended."
  )
  seed: int = option(
    0,
    "Seed of all random numbers of a run: initialization, partition, cohorts, batches, dropout.",
    most=2**32 - 1,
  )
  progress: bool = option(True, "Whether to draw a progress bar for each run.")
  compilation_cache: bool = option(
    True, "Whether to keep compiled programs on the disk, for a faster next start."
  )
