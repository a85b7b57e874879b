"""Learning with little communication: ``python -m experiments.decentralized --algorithm=gaia``.

The algorithms BSP, Gaia, FedAvg and DGC as paper 004 compares them; a round is one mini-batch of
every partition (client). With ``--skewscout=hill``, SkewScout chooses how much an algorithm
communicates. BSP, Gaia and DGC sum the updates of all K partitions and FedAvg averages models: at
the same ``--lr``, the steps of BSP, Gaia and DGC are K times as large. ``--algorithm`` decides
which other flags exist.
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import DECENTRALIZED


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  app.run(train.run, DECENTRALIZED, __doc__, "decentralized")
