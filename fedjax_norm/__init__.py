"""Simulates federated learning on one machine, with a choice of norms and algorithms.

These are the public names for scripts; the page "API reference" of the documentation has an
example.
"""

from fedjax_norm import client_mapping, data, models, norm
from fedjax_norm.algorithms.asgd import AsgdConfig
from fedjax_norm.algorithms.contract import Averaging, Context, Method, Update
from fedjax_norm.algorithms.dgc import DgcConfig
from fedjax_norm.algorithms.fedavg import FedAvgConfig
from fedjax_norm.algorithms.fednova import FedNovaConfig
from fedjax_norm.algorithms.gaia import GaiaConfig
from fedjax_norm.algorithms.periodic_averaging import PeriodicConfig
from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.algorithms.scaffold import ScaffoldConfig
from fedjax_norm.algorithms.ssgd import SsgdConfig
from fedjax_norm.client_mapping import use_host_devices
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.partitions.registry import make as make_partition
from fedjax_norm.data.sources.registry import load as load_source
from fedjax_norm.data.transforms.preprocess import Preprocess
from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.local_training import LocalConfig
from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.norm import create as make_norm
from fedjax_norm.objectives import Objective
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.training.build_program import make_program
from fedjax_norm.training.config.freeze_options import FreezeConfig
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.config.schedule import Schedule
from fedjax_norm.training.config.train import config_of
from fedjax_norm.training.finished_run import FinishedRun, load_run
from fedjax_norm.training.outcome import Outcome, summary
from fedjax_norm.training.run import run
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import Task, make_task

__all__ = [
  "METHODS",
  "Algorithm",
  "AsgdConfig",
  "Averaging",
  "Context",
  "DgcConfig",
  "DivergedError",
  "Examples",
  "FedAvgConfig",
  "FedNovaConfig",
  "FinishedRun",
  "FreezeConfig",
  "GaiaConfig",
  "LocalConfig",
  "LoopConfig",
  "Method",
  "Mode",
  "NormSpec",
  "Objective",
  "Outcome",
  "Partition",
  "PeriodicConfig",
  "Plateau",
  "Preprocess",
  "RunFolder",
  "ScaffoldConfig",
  "Schedule",
  "Source",
  "SplitConfig",
  "SsgdConfig",
  "Task",
  "Update",
  "UserError",
  "client_mapping",
  "config_of",
  "data",
  "load_run",
  "load_source",
  "make_norm",
  "make_partition",
  "make_program",
  "make_task",
  "models",
  "norm",
  "run",
  "summary",
  "use_host_devices",
]
