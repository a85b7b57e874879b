"""Synchronous SGD over isolated nodes: ``python -m experiments.ssgd --norm=sync_bn --clients=10``.

Algorithm 1 of paper 000: in every round each worker sends the gradient of one batch, and the master
takes one step. ``--help`` lists the flags; ``--flagfile=experiments/presets/NAME.flags`` is a
preset.
"""

from experiments import app, training
from experiments.config import config_of
from fedjax_norm.algorithms.ssgd import SSGD

CONFIG = config_of(SSGD)

if __name__ == "__main__":
  app.run(training.run, CONFIG)
