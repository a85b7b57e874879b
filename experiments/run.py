"""Any method of the registry: ``python -m experiments.run --method=scaffold --local_steps=5``.

``--method`` is read before the other flags, which are those of the method: ``python -m
experiments.run --method=scaffold --help`` lists them.
"""

from experiments import app, training
from experiments.choice import Choice
from experiments.config import config_of
from fedjax_norm.algorithms.registry import METHODS

METHOD = Choice(
  "method",
  "fedavg",
  {name: config_of(method) for name, method in METHODS.items()},
  {name: method.help for name, method in METHODS.items()},
)

if __name__ == "__main__":
  app.run_chosen(training.run, METHOD)
