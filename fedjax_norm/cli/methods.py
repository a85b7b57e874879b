"""The config class of each training binary, or the flag that chooses the class."""

from fedjax_norm.algorithms.asgd import ASGD
from fedjax_norm.algorithms.dgc import DGC
from fedjax_norm.algorithms.fedavg import FEDAVG
from fedjax_norm.algorithms.gaia import GAIA
from fedjax_norm.algorithms.periodic_averaging import PERIODIC
from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.algorithms.ssgd import BSP, SSGD
from fedjax_norm.cli.config import config_of
from fedjax_norm.cli.method_choice import choice_of

FEDAVG_CONFIG = config_of(FEDAVG)
SSGD_CONFIG = config_of(SSGD)
ASGD_CONFIG = config_of(ASGD)
DECENTRALIZED = choice_of("algorithm", {"bsp": BSP, "gaia": GAIA, "fedavg": PERIODIC, "dgc": DGC})
ANY_METHOD = choice_of("method", METHODS)
