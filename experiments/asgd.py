"""Asynchronous SGD on a simulated clock: ``python -m experiments.asgd --network=wan --clients=10``.

Workers of unequal speed send gradients whenever they are ready, and the master makes a step with
each; a round is one arrival. ``--delay_compensation`` corrects late gradients (Zheng et al. 2017).
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import ASGD_CONFIG

if __name__ == "__main__":
  app.run(train.run, ASGD_CONFIG)
