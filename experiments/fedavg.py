"""Federated averaging with any norm: ``python -m experiments.fedavg --norm=fixbn --clients=10``.

By default each client has one class of the digits data and takes one local SGD step per round,
which is the hardest case for batch normalization.
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import FEDAVG_CONFIG

if __name__ == "__main__":
  app.run(train.run, FEDAVG_CONFIG, "fedavg")
