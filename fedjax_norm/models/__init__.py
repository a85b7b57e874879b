"""The models, each with a choice of the norm."""

from fedjax_norm.models.registry import MODELS, create, data_init, entry, init, norm_modules

__all__ = ["MODELS", "create", "data_init", "entry", "init", "norm_modules"]
