"""Split learning (paper 003): ``python -m experiments.split --model=lenet5 --cut=conv2``.

Clients hold the first stages of the model and their data, a server the rest; activations, labels
and gradients at the cut are all that crosses. ``python -m experiments.stages`` lists the stages of
a model; ``--tail`` keeps labels with the clients, ``--autoencoder`` learns from examples without
labels, ``--relays`` hides clients from the server. ``--algorithm`` is read before the other flags.
"""

import functools

from fedjax_norm.cli import app, train
from fedjax_norm.cli.split_options import ALGORITHM, make

if __name__ == "__main__":
  app.run(functools.partial(train.run, make=make), ALGORITHM, "split")
