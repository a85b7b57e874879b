"""The neural networks, each with any norm, and the functions that create and initialize them."""

from fedjax_norm.models.registry import MODELS, create, data_init, entry, init, norm_modules

__all__ = ["MODELS", "create", "data_init", "entry", "init", "norm_modules"]
