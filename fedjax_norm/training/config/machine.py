"""Options of the machine and of a run's folder.

``backend``, ``chunk`` and ``host_devices`` change the order of sums, and so the last bits of
results.
"""

import dataclasses

from fedjax_norm.client_mapping import BACKENDS
from fedjax_norm.options import Options, option
from fedjax_norm.training.placement.data_feed import DATA_ON


@dataclasses.dataclass(frozen=True)
class MappingConfig(Options):
  """How clients are mapped to devices, and where their data is."""

  group = "machine"

  backend: str = option("auto", "How clients are mapped to devices.", choices=BACKENDS)
  chunk: int | None = option(
    None, "Clients that run at once on a device, 0 for all; chosen if not given.", least=0
  )
  data_on: str = option(
    "auto",
    "Where training images stay: on the device, or on the host, which sends those of the next "
    "rounds' clients ahead; auto looks at the memory.",
    choices=DATA_ON,
  )


@dataclasses.dataclass(frozen=True)
class MachineConfig(Options):
  """The devices and the processes of a binary."""

  group = "machine"

  host_devices: int | None = option(
    None,
    "CPU devices that the clients are divided over; if not given one for each core, up to the "
    "cohort.",
    least=1,
  )
  compilation_cache: bool = option(
    True,
    "Whether compiled programs are kept for the next start, in the user's cache folder or the one "
    "that JAX_COMPILATION_CACHE_DIR names.",
  )
  coordinator_address: str | None = option(
    None, "HOST:PORT of process 0, for a run of several processes."
  )
  num_processes: int | None = option(None, "How many processes the run has.")
  process_id: int | None = option(None, "Which of the processes this is, from 0.")


@dataclasses.dataclass(frozen=True)
class RunConfig(Options):
  """Where a run is kept, and how often it is repeated."""

  group = "run"

  seeds: int = option(
    1,
    "Repeats the run with so many seeds, from --seed on; the mean and the deviation are printed.",
    least=1,
  )
  workdir: str | None = option(None, "The run's folder; a new one under runs/ if not given.")
  resume: bool = option(True, "Whether to go on with a run that --workdir holds.")
  wait_for_workdir: bool = option(
    False, "Whether to wait until another process that uses --workdir has ended."
  )
  progress: bool = option(True, "Whether to draw a progress bar.")
