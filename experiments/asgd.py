"""Asynchronous SGD on a simulated clock: ``python -m experiments.asgd --network=wan --clients=10``.

Workers of unequal speed send gradients as soon as they have computed them, and the server takes a
step with each one; a round is one such arrival. ``--delay_compensation`` corrects stale gradients
(Zheng et al. 2017).
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import ASGD_CONFIG

if __name__ == "__main__":
  app.run(train.run, ASGD_CONFIG, "asgd")
