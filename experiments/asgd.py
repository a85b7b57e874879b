"""Asynchronous SGD on a simulated clock: ``python -m experiments.asgd --network=wan --clients=10``.

Workers of unequal speed send each gradient as soon as it is computed, and the server takes a step
with each gradient that arrives; a round is one such step. ``--delay_compensation`` corrects
gradients of weights that the server has changed since (Zheng et al. 2017).
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import ASGD_CONFIG

if __name__ == "__main__":
  app.run(train.run, ASGD_CONFIG, "asgd")
