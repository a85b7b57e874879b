"""Configurations, setups and programs that many tests share."""

import jax

from fedjax_norm.algorithms.averaging import build
from fedjax_norm.algorithms.contract import Method, Setup
from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.local_training import LocalConfig
from fedjax_norm.options import make as configure
from fedjax_norm.training.build_program import make_program
from fedjax_norm.training.config.train import config_of

__all__ = ["built", "configure", "plain", "program_of", "setup_of"]


def plain(**options) -> LocalConfig:
  """Returns plain SGD, without momentum and weight decay unless they are given."""
  return LocalConfig(**{"momentum": 0.0, "weight_decay": 0.0, **options})


def setup_of(model, mapping, data, transform, image_shape, **more) -> Setup:
  """Returns the setup of an algorithm for float32 images."""
  images = jax.ShapeDtypeStruct(image_shape, "float32")
  return Setup(model, mapping, data, transform, images, **more)


def built(method: Method, config, *arguments, **more) -> Algorithm:
  """Returns the algorithm of a method (see :func:`setup_of`)."""
  return build(method, config, setup_of(*arguments, **more))


def program_of(method: Method, task, *groups, **options):
  """Returns (the program of a run of a method, its complete options)."""
  config = configure(config_of(method), *groups, **options)
  return make_program(method, task, config), config
