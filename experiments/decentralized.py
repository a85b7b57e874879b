"""Communication-saving learning: ``python -m experiments.decentralized --algorithm=gaia``.

BSP, Gaia, FedAvg and DGC as paper 004 compares them, a round being a mini-batch of every partition.
``--skewscout=hill`` lets SkewScout choose how much they communicate. Gaia, DGC and BSP add up the
partitions' updates, FedAvg averages models: at one ``--lr`` the first three take steps as many
times as large as there are partitions. ``--algorithm`` is read before the other flags, which are
those of the algorithm.
"""

from experiments import app, training
from experiments.choice import Choice
from experiments.config import config_of
from fedjax_norm.algorithms.dgc import DGC
from fedjax_norm.algorithms.gaia import GAIA
from fedjax_norm.algorithms.periodic import PERIODIC
from fedjax_norm.algorithms.ssgd import BSP

_METHODS = {"bsp": BSP, "gaia": GAIA, "fedavg": PERIODIC, "dgc": DGC}
ALGORITHM = Choice(
  "algorithm",
  "bsp",
  {name: config_of(method) for name, method in _METHODS.items()},
  {name: method.help for name, method in _METHODS.items()},
)

if __name__ == "__main__":
  app.run_chosen(training.run, ALGORITHM)
