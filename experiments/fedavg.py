"""Federated averaging with any norm: ``python -m experiments.fedavg --norm=fixbn --clients=10``.

The defaults are the hardest case: digits, ten clients that hold one class each, one local step of
SGD a round. ``--help`` lists the flags; ``--flagfile=fedjax_norm/presets/NAME.flags`` is a preset.
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import FEDAVG_CONFIG

if __name__ == "__main__":
  app.run(train.run, FEDAVG_CONFIG)
