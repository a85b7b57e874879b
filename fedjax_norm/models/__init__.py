"""Models with the norm as an argument."""

from fedjax_norm.models.registry import MODELS, create, data_init, entry, init, norm_modules

__all__ = ["MODELS", "create", "data_init", "entry", "init", "norm_modules"]
