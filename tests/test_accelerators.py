"""What is special to tests on accelerators: the default precision, and XLA's flags."""

import os

import jax
import jax.numpy as jnp
import numpy as np
from helpers import accelerators

from fedjax_norm.ops.conv import conv


def test_a_convolution_and_a_product_are_as_exact_as_the_platform():
  """The other tests compute in full float32 (``helpers.accelerators``), users in the default."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 6, 6, 32)).astype(np.float32)
  kernel = rng.standard_normal((1, 1, 32, 16)).astype(np.float32) / 32**0.5  # results of about 1
  expected = x.astype(np.float64) @ kernel[0, 0].astype(np.float64)
  error = accelerators.PRODUCT_ERROR[jax.default_backend()]
  with jax.default_matmul_precision("default"):
    results = conv(jnp.asarray(x), jnp.asarray(kernel)), jnp.asarray(x) @ kernel[0, 0]
  for actual in results:
    np.testing.assert_allclose(actual, expected, error, error)


def test_flags_that_xla_does_not_know_are_left_out(monkeypatch):
  wanted = ("--xla_no_such_flag=1", "--xla_backend_optimization_level=0", "--xla_nor_this=false")
  monkeypatch.setattr(accelerators, "_WANTED", wanted)
  monkeypatch.delenv(accelerators._ASKED)
  monkeypatch.setenv("XLA_FLAGS", "--xla_of_the_user=1")
  accelerators.set_environment()
  assert os.environ["XLA_FLAGS"] == "--xla_of_the_user=1 --xla_backend_optimization_level=0"
