"""Synchronous SGD over isolated nodes: ``python -m experiments.ssgd --norm=sync_bn --clients=10``.

Algorithm 1 of paper 000: in every round each worker sends the gradient of one batch, and the master
takes one step. ``--help`` lists the flags; ``--flagfile=fedjax_norm/presets/NAME.flags`` is a
preset.
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import SSGD_CONFIG

if __name__ == "__main__":
  app.run(train.run, SSGD_CONFIG)
