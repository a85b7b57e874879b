"""Communication-saving learning: ``python -m experiments.decentralized --algorithm=gaia``.

BSP, Gaia, FedAvg and DGC as paper 004 compares them, a round being a mini-batch of every partition.
``--skewscout=hill`` lets SkewScout choose how much they communicate. Gaia, DGC and BSP add up the
partitions' updates, FedAvg averages models: at one ``--lr`` the first three take steps as many
times as large as there are partitions. ``--algorithm`` is read before the other flags, which are
those of the algorithm.
"""

from fedjax_norm.cli import app, train
from fedjax_norm.cli.methods import DECENTRALIZED

if __name__ == "__main__":
  app.run_chosen(train.run, DECENTRALIZED)
