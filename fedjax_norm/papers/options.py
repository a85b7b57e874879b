"""The flags of ``experiments.paper``."""

import dataclasses

from fedjax_norm.options import Options, option


@dataclasses.dataclass(frozen=True)
class PaperFlags(Options):
  """Options of the runner of the papers' tables."""

  tables: str = option(
    "all",
    "Which, with commas between: 000.1, 004.fig5, or 004.6 for all of 004.6.*; all by default.",
  )
  scale: str = option(
    "smoke",
    "smoke: on digits, minutes in all; small: on CIFAR-10, minutes a run; full: the "
    "papers' settings, for a GPU.",
    choices=("smoke", "small", "full"),
  )
  data_dir: str | None = option(None, "The folder of prepared TFDS sets, for small and full.")
  workdir: str | None = option(None, "Where runs and results go; runs/paper-SCALE by default.")
  wait_for_workdir: bool = option(
    False, "Whether to wait until another process that uses --workdir has ended."
  )
  seed: int = option(
    0,
    "Seed of all random numbers: initialization, partition, cohorts, batches, dropout.",
    most=2**32 - 1,
  )
  progress: bool = option(True, "Whether to draw a progress bar of each run.")
  compilation_cache: bool = option(True, "Whether compiled programs are kept for the next start.")
