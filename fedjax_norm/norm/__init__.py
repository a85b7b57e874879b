"""All normalizations: each is a choice of the axes over which an activation is normalized."""

from fedjax_norm.norm.config import NormConfig
from fedjax_norm.norm.layer import Mode, Norm
from fedjax_norm.norm.spec import NAMES, NORMS, NormSpec, Renorm, create

__all__ = ["NAMES", "NORMS", "Mode", "Norm", "NormConfig", "NormSpec", "Renorm", "create"]
