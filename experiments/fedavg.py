"""Federated averaging with any norm: ``python -m experiments.fedavg --norm=fixbn --clients=10``.

The defaults are the hardest case: digits, ten clients that hold one class each, one local step of
SGD a round. ``--help`` lists the flags; ``--flagfile=experiments/presets/NAME.flags`` is a preset.
"""

from experiments import app, training
from experiments.config import config_of
from fedjax_norm.algorithms.fedavg import FEDAVG

CONFIG = config_of(FEDAVG)

if __name__ == "__main__":
  app.run(training.run, CONFIG)
