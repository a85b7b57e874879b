"""Federated averaging with any norm: ``python -m experiments.fedavg --norm=fixbn --clients=10``.

By default each client has one class of the digits data and takes one local SGD step per round,
which is the hardest case for batch normalization.
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import FEDAVG_CONFIG


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(train.run, FEDAVG_CONFIG, __doc__, "fedavg")
