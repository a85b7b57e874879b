"""The flags of ``experiments.paper``."""

import dataclasses

from fedjax_norm.options import Options, option
from fedjax_norm.study.statistics import FEW_SEEDS


@dataclasses.dataclass(frozen=True)
class PaperFlags(Options):
  """Options of ``experiments.paper``."""

  list: bool = option(
    False,
    "Whether to list the tables with their times, and to do nothing else; with up to five tables, "
    "also their cells and claims.",
  )
  table: str | None = option(
    None,
    "Names of the papers' tables and figures to run, separated by commas, such as 000.1,004.fig5. "
    "004.6 runs all names that begin with '004.6.', and all runs everything.",
  )
  cells: str | None = option(
    None,
    "Only the cells whose labels contain one of these texts, separated by semicolons, such as "
    "'GN, BSP;GN, Gaia'; by default all cells of the tables.",
  )
  scale: str = option(
    "smoke",
    "Size of the runs: smoke (digits, seconds per run, decides no claim), small (real data, "
    "minutes per run) or full (the papers' settings, needs a GPU); --list says how long they take.",
    choices=("smoke", "small", "full"),
  )
  seeds: int = option(
    FEW_SEEDS,
    "Number of runs of each cell, with the seeds --seed, --seed + 1 and so on; claims are decided "
    f"with {FEW_SEEDS} or more. In the same --workdir, 2 or more can grow.",
    least=1,
  )
  minutes: float | None = option(
    None,
    "Minutes after which the runs stop at their next evaluation, to be resumed by the same "
    "command; by default all are run.",
    least=0,
  )
  data_dir: str | None = option(
    None,
    "Folder of the prepared TFDS data sets, and of images, masks or CSV indexes for papers 002 and "
    "004. The scales small and full need it.",
  )
  workdir: str | None = option(
    None, "Folder for the runs and the results; runs/paper-SCALE by default."
  )
  record: str | None = option(
    None,
    "Folder that gets the measured values of the tables; RESULTS.md beside it is made of all that "
    "it has. Cells with runs that the new values lack stay.",
  )
  workers: int | None = option(
    None, "Number of processes that train side by side; by default one for each CPU core.", least=1
  )
  seed: int = option(
    0,
    "Seed of all random numbers of the first run: initialization, partition, cohorts, batches, "
    "dropout.",
    most=2**32 - 1,
    least=0,
  )
  progress: bool = option(True, "Whether to show the progress.")
  compilation_cache: bool = option(
    True, "Whether to keep compiled programs on the disk, for a faster next start."
  )
