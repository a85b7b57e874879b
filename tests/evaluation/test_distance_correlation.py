"""Distance correlation against loops over the definition and against known values."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.evaluation.leakage.distance_correlation import distance_correlation

measure = jax.jit(distance_correlation)


def by_hand(x, y):
  """Computes Szekely et al. 2007, definition 4, and Szekely and Rizzo 2014, definition 2."""
  n = len(x)
  sides = []
  for side in (x, y):
    d = np.array([[np.sqrt(((side[k] - side[j]) ** 2).sum()) for j in range(n)] for k in range(n)])
    v, u = np.zeros((n, n)), np.zeros((n, n))
    for k in range(n):
      for j in range(n):
        v[k, j] = d[k, j] - d[k].mean() - d[:, j].mean() + d.mean()
        if k != j:
          u[k, j] = d[k, j] - d[k].sum() / (n - 2) - d[:, j].sum() / (n - 2)
          u[k, j] += d.sum() / ((n - 1) * (n - 2))
    sides.append((v, u))
  (v_x, u_x), (v_y, u_y) = sides
  plain = (v_x * v_y).mean() / np.sqrt((v_x**2).mean() * (v_y**2).mean())
  scale = n * (n - 3)
  corrected = (u_x * u_y).sum() / scale
  corrected /= np.sqrt((u_x**2).sum() / scale * (u_y**2).sum() / scale)
  return np.sqrt(plain), np.sign(corrected) * np.sqrt(abs(corrected))


@given(st.integers(0, 10**6), st.floats(0, 1))
@settings(max_examples=15)
def test_distance_correlation_equals_the_definition(seed, share):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(9, 2, 3))
  y = share * np.abs(x.reshape(9, 6)[:, :4]) + (1 - share) * rng.normal(size=(9, 4))
  result = measure(x.astype(np.float32), y.astype(np.float32))
  plain, corrected = by_hand(x, y)
  np.testing.assert_allclose(result.plain, plain, atol=1e-4)
  # Compares squares, because the root magnifies errors near 0.
  np.testing.assert_allclose(
    result.corrected * abs(result.corrected), corrected * abs(corrected), atol=1e-4
  )


def test_rotations_are_fully_dependent_and_curves_partly():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(60, 5)).astype(np.float32)
  rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
  moved = (3 * x @ rotation + 7).astype(np.float32)
  np.testing.assert_allclose(measure(x, moved), (1, 1), atol=1e-3)
  # Linearly uncorrelated, but dependent.
  line = np.linspace(-1, 1, 101, dtype=np.float32)[:, None]
  assert abs(np.corrcoef(line[:, 0], line[:, 0] ** 2)[0, 1]) < 1e-6
  assert measure(line, line**2).corrected > 0.4


def test_independent_long_vectors_look_dependent_until_corrected():
  results = []
  for seed in range(20):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 30, 400)).astype(np.float32)
    results.append(measure(x, y))
  assert min(r.plain for r in results) > 0.8
  signed = [float(r.corrected * abs(r.corrected)) for r in results]
  assert abs(np.mean(signed)) < 0.03
  assert min(signed) < 0


def test_equal_examples_have_no_dependence():
  x = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
  assert measure(x, np.ones((9, 4), np.float32)) == (0, 0)
