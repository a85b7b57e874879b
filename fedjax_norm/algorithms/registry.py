"""The registry: all algorithms that command lines, ``fedjax_norm.run`` and tests know by name."""

from fedjax_norm.algorithms.asgd import ASGD
from fedjax_norm.algorithms.contract import Method
from fedjax_norm.algorithms.dgc import DGC
from fedjax_norm.algorithms.fedavg import FEDAVG
from fedjax_norm.algorithms.fednova import FEDNOVA
from fedjax_norm.algorithms.gaia import GAIA
from fedjax_norm.algorithms.periodic_averaging import PERIODIC
from fedjax_norm.algorithms.scaffold import SCAFFOLD
from fedjax_norm.algorithms.ssgd import BSP, SSGD
from fedjax_norm.errors import UserError
from fedjax_norm.split.algorithm import SPLIT, SPLITFED_V1, SPLITFED_V2

METHODS = {
  method.name: method
  for method in (
    FEDAVG,
    SCAFFOLD,
    FEDNOVA,
    SSGD,
    ASGD,
    BSP,
    GAIA,
    PERIODIC,
    DGC,
    SPLIT,
    SPLITFED_V1,
    SPLITFED_V2,
  )
}


def find(name: str) -> Method:
  """Returns the algorithm called ``name``; raises UserError if there is none."""
  if name not in METHODS:
    raise UserError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}.")
  return METHODS[name]
