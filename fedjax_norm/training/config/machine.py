"""Options of devices, processes and the run folder.

``backend``, ``chunk`` and ``host_devices`` change the order in which floats are added, and so the
last bits of results.
"""

import dataclasses

from fedjax_norm.client_mapping import BACKENDS
from fedjax_norm.options import Options, option
from fedjax_norm.training.placement.data_feed import DATA_ON


@dataclasses.dataclass(frozen=True)
class MappingConfig(Options):
  """How clients are mapped to devices, and where their training data stays."""

  group = "machine"

  backend: str = option(
    "auto",
    "How the clients of a round are mapped to devices: vmap (in parallel) or scan (sequentially) "
    "on one device, pmap or shard_map over several devices; auto chooses by the platform.",
    choices=BACKENDS,
  )
  chunk: int | None = option(
    None,
    "Maximum number of clients that a device trains in parallel, in chunks of equal size; 0 for "
    "all, 1 to train them sequentially. By default one on a CPU; on an accelerator as many as fit "
    "its memory, or fewer if their numbers of local steps differ much.",
    least=0,
  )
  data_on: str = option(
    "auto",
    "Where training images stay: device keeps all of them in the device's memory; host sends the "
    "images of the next rounds' clients to the device in advance; auto is device if all images "
    "fill at most half of its memory.",
    choices=DATA_ON,
  )


@dataclasses.dataclass(frozen=True)
class MachineConfig(Options):
  """CPU devices, compilation cache and processes of a run."""

  group = "machine"

  host_devices: int | None = option(
    None,
    "Number of CPU devices over which the clients are divided; by default one per core, at most "
    "one per client of the cohort.",
    least=1,
  )
  compilation_cache: bool = option(
    True,
    "Whether compiled programs are saved for later runs, in the user's cache folder or in the "
    "folder that the environment variable JAX_COMPILATION_CACHE_DIR names.",
  )
  coordinator_address: str | None = option(
    None, "HOST:PORT of process 0, in a run of several processes; unset for one process."
  )
  num_processes: int | None = option(None, "Number of processes of the run; 1 by default.")
  process_id: int | None = option(None, "Index of this process, from 0 to --num_processes - 1.")


@dataclasses.dataclass(frozen=True)
class RunConfig(Options):
  """Folder of a run, resuming, and repetition with several seeds."""

  group = "run"

  seeds: int = option(
    1,
    "Number of runs, with consecutive seeds from --seed on; the mean and the standard deviation of "
    "the runs' results are printed.",
    least=1,
  )
  workdir: str | None = option(
    None, "Folder of the run, for metrics and checkpoints; by default a new folder under runs/."
  )
  resume: bool = option(True, "Whether to resume a run that is in --workdir.")
  wait_for_workdir: bool = option(
    False, "Whether to wait until another process that uses --workdir has ended."
  )
  progress: bool = option(True, "Whether to show a progress bar.")
  wandb: bool = option(
    False,
    "Whether to log metrics, options and results to Weights & Biases, too; needs the package wandb "
    "and an account, or the environment variable WANDB_MODE=offline.",
  )
  wandb_project: str = option(
    "fedjax_norm", "Project of the run on Weights & Biases.", needs="wandb"
  )
