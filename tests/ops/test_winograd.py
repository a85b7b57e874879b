"""The number of multiplications of Winograd's form; tests/ops/test_conv.py has its values."""

import functools

import jax
import jax.numpy as jnp

from fedjax_norm.ops.geometry import Geometry
from fedjax_norm.ops.lowerings import winograd


def test_winograd_multiplies_16_times_for_4_outputs():
  geometry = Geometry((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)))
  x, kernel = jnp.zeros((2, 8, 8, 64)), jnp.zeros((3, 3, 64, 64))
  for part, *arrays in (
    ("forward", x, kernel),
    ("input_gradient", x, kernel),
    ("kernel_gradient", x, x),
  ):
    function = functools.partial(getattr(winograd, part), geometry)
    flops = jax.jit(function).lower(*arrays).compile().cost_analysis()["flops"]
    usual = 2 * 9 * x.size * 64
    assert usual * 4 / 9 <= flops < usual * 0.75  # the transforms included
