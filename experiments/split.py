"""Split learning (paper 003): ``python -m experiments.split --model=lenet5 --cut=conv2``.

Clients hold their data and the first stages of the model, a server holds the rest; only
activations, labels and gradients cross the cut. ``python -m experiments.stages`` lists the stages
of a model. ``--tail`` keeps labels on the clients, ``--autoencoder`` learns from unlabelled
examples, ``--relays`` hides the clients from the server. ``--algorithm`` determines which other
flags exist.
"""

import functools

from fedjax_norm.cli import app, train
from fedjax_norm.cli.split_options import ALGORITHM, make

if __name__ == "__main__":
  app.run(functools.partial(train.run, make=make), ALGORITHM, "split")
