"""Runs the server of split learning over a network (paper 003, sec. 4).

  python -m experiments.split_server --client_names=alice0,alice1 --image_shape=8x8x1 ...

The server has the middle stages of the model. It receives activations, gradients and (without
--tail) labels, and decides which client trains next. The same command resumes a stopped server.
Needs: pip install -e ".[wire]"
"""

from fedjax_norm.cli import app
from fedjax_norm.cli.wire.launch import main_of
from fedjax_norm.cli.wire.options import ServerFlags


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(main_of("server"), ServerFlags, __doc__)
