"""Any method of the registry: ``python -m experiments.run --method=scaffold --local_steps=5``.

``--method`` is read before the other flags, which are those of the method: ``python -m
experiments.run --method=scaffold --help`` lists them.
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import ANY_METHOD

if __name__ == "__main__":
  app.run_chosen(train.run, ANY_METHOD)
