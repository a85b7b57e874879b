"""Learning with little communication: ``python -m experiments.decentralized --algorithm=gaia``.

The algorithms BSP, Gaia, FedAvg and DGC as paper 004 compares them; a round is one mini-batch of
every partition. With ``--skewscout=hill``, SkewScout chooses how much they communicate. BSP, Gaia
and DGC add up the updates of the partitions and FedAvg averages models: at the same ``--lr``, the
steps of the first three are larger by a factor of the number of partitions. ``--algorithm`` decides
which other flags there are.
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import DECENTRALIZED

if __name__ == "__main__":
  app.run(train.run, DECENTRALIZED, "decentralized")
