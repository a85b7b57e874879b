"""Local training: the steps of SGD that a client takes on its data in a round."""

from fedjax_norm.local_training.client_optimizer import optimizer
from fedjax_norm.local_training.client_update import ClientOutput, make_client_update
from fedjax_norm.local_training.config import STATISTICS, LocalConfig, LocalStepsConfig, SgdConfig
from fedjax_norm.local_training.gradient import Metrics, make_gradient, make_loss, measure
from fedjax_norm.local_training.step_memory import step_bytes

__all__ = [
  "STATISTICS",
  "ClientOutput",
  "LocalConfig",
  "LocalStepsConfig",
  "Metrics",
  "SgdConfig",
  "make_client_update",
  "make_gradient",
  "make_loss",
  "measure",
  "optimizer",
  "step_bytes",
]
