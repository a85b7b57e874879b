"""Similarity measures of images against loops and known values."""

import numpy as np
import pytest

from fedjax_norm.evaluation.leakage import similarity

RNG = np.random.default_rng(0)


def ssim_by_hand(x, y, size):
  half = size // 2
  grid = np.arange(-half, half + 1)
  window = np.exp(-(grid[:, None] ** 2 + grid**2) / (2 * 1.5**2))
  window /= window.sum()
  values = []
  for row in range(half, x.shape[0] - half):
    for column in range(half, x.shape[1] - half):
      window_slice = np.s_[row - half : row + half + 1, column - half : column + half + 1]
      a, b = x[window_slice].astype(np.float64), y[window_slice].astype(np.float64)
      mean_a, mean_b = (window * a).sum(), (window * b).sum()
      var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
      covariance = (window * (a - mean_a) * (b - mean_b)).sum()
      numerator = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
      values.append(numerator / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
  return np.mean(values)


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 7), (14, 12, 11)])
def test_ssim_equals_the_definition(height, width, size):
  x = RNG.random((2, height, width, 2)).astype(np.float32)
  y = (0.7 * x + 0.3 * RNG.random(x.shape)).astype(np.float32)
  by_hand = [ssim_by_hand(x[i, ..., c], y[i, ..., c], size) for i in range(2) for c in range(2)]
  np.testing.assert_allclose(similarity.ssim(x, y), np.mean(by_hand), rtol=1e-3)
  np.testing.assert_allclose(similarity.ssim(x, x), 1, rtol=1e-5)
  assert similarity.ssim(x, 1 - x) < 0


def test_an_error_of_a_tenth_is_twenty_decibels():
  x = RNG.random((3, 4, 4, 1)).astype(np.float32)
  np.testing.assert_allclose(similarity.psnr(x, x + 0.1), 20, rtol=1e-4)
  # PSNR is averaged over images; it is not the PSNR of the mean error.
  each = np.array([0.1, 0.01, 0.001], np.float32)[:, None, None, None]
  np.testing.assert_allclose(similarity.psnr(x, x + each), 40, rtol=1e-2)


def test_the_guess_has_a_relative_error_of_one():
  x = RNG.random((5, 4, 4, 1)).astype(np.float32)
  guess = RNG.random((4, 4, 1)).astype(np.float32)
  np.testing.assert_allclose(similarity.relative_error(x, guess + 0 * x, guess), 1)
  np.testing.assert_allclose(similarity.relative_error(x, (x + guess) / 2, guess), 0.25, rtol=1e-5)
