"""Multiplications and rounding of Winograd's form; tests/ops/test_conv.py has its values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize("channels", [64, 256])
def test_the_rounding_error_with_many_channels_is_below_1e_6(channels):
  rng = np.random.default_rng(0)
  geometry = Geometry((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)))
  x, dy = (rng.standard_normal((2, 8, 8, channels)).astype(np.float32) for _ in range(2))
  kernel = rng.standard_normal((3, 3, channels, channels)).astype(np.float32)
  inputs = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64, requires_grad=True)
  weights = torch.tensor(kernel.transpose(3, 2, 0, 1), dtype=torch.float64, requires_grad=True)
  y = torch.nn.functional.conv2d(inputs, weights, padding=1)
  y.backward(torch.tensor(dy.transpose(0, 3, 1, 2), dtype=torch.float64))
  for actual, exact, axes in (
    (winograd.forward(geometry, x, kernel), y.detach(), (0, 2, 3, 1)),
    (winograd.input_gradient(geometry, dy, kernel), inputs.grad, (0, 2, 3, 1)),
    (winograd.kernel_gradient(geometry, x, dy), weights.grad, (2, 3, 1, 0)),
  ):
    expected = exact.permute(axes).numpy()
    error = np.asarray(actual, np.float64) - expected
    assert np.sqrt((error**2).mean() / (expected**2).mean()) < 1e-6
