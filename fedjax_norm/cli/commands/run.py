"""Any method of the registry: ``python -m experiments.run --method=scaffold --local_steps=5``.

``--method`` decides which other flags exist: ``python -m experiments.run --method=scaffold --help``
lists the flags of SCAFFOLD.
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import ANY_METHOD


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(train.run, ANY_METHOD, __doc__, "run")
