"""Asynchronous SGD on a simulated clock: ``python -m experiments.asgd --network=wan --clients=10``.

Workers of unequal speed send each gradient as soon as it is computed, and the server takes a step
with each gradient that arrives; a round is one such step. ``--delay_compensation`` corrects
gradients of weights that the server has changed since (Zheng et al. 2017).
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import ASGD_CONFIG


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(train.run, ASGD_CONFIG, __doc__, "asgd")
