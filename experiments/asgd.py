"""Asynchronous SGD on a simulated clock: ``python -m experiments.asgd --network=wan --clients=10``.

Workers of unequal speed send gradients whenever they are ready, and the master makes a step with
each; a round is one arrival. ``--delay_compensation`` corrects late gradients (Zheng et al. 2017).
"""

from experiments import app, training
from experiments.config import config_of
from fedjax_norm.algorithms.asgd import ASGD

CONFIG = config_of(ASGD)

if __name__ == "__main__":
  app.run(training.run, CONFIG)
