"""Trains a client of split learning over a network (paper 003, sec. 4).

  python -m experiments.split_client --certificate=alice0.pem --key=alice0.key ...

The client has its images, which it never sends, and the first stages of the model; with --tail it
also has the last stages and keeps its labels. With --predict it classifies its test images with the
trained network (sec. 3). The same command resumes a stopped client.
Needs: pip install -e ".[wire]"
"""

from fedjax_norm.cli import app
from fedjax_norm.cli.wire.launch import main_of
from fedjax_norm.cli.wire.options import ClientFlags


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(main_of("client"), ClientFlags, __doc__)
