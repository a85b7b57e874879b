"""Split learning (paper 003): ``python -m experiments.split --model=lenet5 --cut=conv2``.

Clients compute the first stages of the model on their data, and a server computes the other stages;
only activations, labels and gradients are exchanged. ``python -m experiments.stages`` lists the
stages of a model. ``--tail`` keeps labels on the clients, ``--autoencoder`` also learns from
unlabelled examples, and ``--relays`` hides the clients from the server. Which other flags exist
depends on ``--algorithm``.
"""

import functools

from fedjax_norm.cli import app, train
from fedjax_norm.cli.split_options import ALGORITHM, make


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(functools.partial(train.run, make=make), ALGORITHM, __doc__, "split")
