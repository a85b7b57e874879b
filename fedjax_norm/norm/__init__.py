"""Normalization as a choice of axes."""

from fedjax_norm.norm.layer import Mode, Norm
from fedjax_norm.norm.spec import NAMES, NormSpec, Renorm, create

__all__ = ["NAMES", "Mode", "Norm", "NormSpec", "Renorm", "create"]
