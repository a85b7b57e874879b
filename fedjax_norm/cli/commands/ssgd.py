"""Synchronous SGD over several workers: ``python -m experiments.ssgd --norm=sync_bn --clients=10``.

Algorithm 1 of paper 000: in each round, every worker sends the gradient of one batch, and the
server takes one step with the average gradient.
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import SSGD_CONFIG


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(train.run, SSGD_CONFIG, __doc__, "ssgd")
