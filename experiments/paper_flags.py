"""The flags of ``experiments.paper``."""

import dataclasses

from experiments.fields import boolean, choice, integer, string
from fedjax_norm.options import Options


@dataclasses.dataclass(frozen=True)
class PaperFlags(Options):
  """What the runner of the papers' tables is told."""

  tables: str = string(
    "all",
    "Which, with commas between: 000.1, 004.fig5, or 004.6 for all of 004.6.*; all by default.",
  )
  scale: str = choice(
    "smoke",
    ("smoke", "small", "full"),
    "smoke: on digits, minutes in all; small: on CIFAR-10, minutes a run; full: the "
    "papers' settings, for a GPU.",
  )
  data_dir: str | None = string(None, "The folder of prepared TFDS sets, for small and full.")
  workdir: str | None = string(None, "Where runs and results go; runs/paper-SCALE by default.")
  wait_for_workdir: bool = boolean(
    False, "Whether to wait until another process that uses --workdir has ended."
  )
  seed: int = integer(0, "Of everything random, in every run.", most=2**32 - 1)
  progress: bool = boolean(True, "Whether to draw a progress bar of each run.")
  compilation_cache: bool = boolean(True, "Whether compiled programs are kept for the next start.")
