"""Measures of how similar reconstructed images are to the original images."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.typing import Array

_WINDOW, _SIGMA = 11, 1.5  # side and sigma in pixels of the window of Wang et al. 2004


def relative_error(images: Array, reconstructed: Array, guess: Array) -> Array:
  """Returns sum (x - x')^2 / sum (x - guess)^2: 0 is perfect, 1 is as bad as the guess.

  Args:
    images: [N, H, W, C] float32 original images x.
    reconstructed: [N, H, W, C] float32 reconstructed images x'.
    guess: [H, W, C] one image as baseline, such as the mean of other images.
  """
  return jnp.square(images - reconstructed).sum() / jnp.square(images - guess).sum()


def psnr(images: Array, reconstructed: Array, peak: float = 1.0) -> Array:
  """Returns 10 log10(peak^2 / MSE) in decibels, averaged over images; pixels are at most peak."""
  errors = jnp.square(images - reconstructed).mean((1, 2, 3))
  return (10 * jnp.log10(peak**2 / errors)).mean()


def ssim(images: Array, reconstructed: Array, peak: float = 1.0) -> Array:
  """Returns the structural similarity averaged over images and channels; 1 for equal images.

  It is the mean over all positions of a Gaussian window, in which x and y have means mu, variances
  sigma^2 and the covariance sigma_xy, of

    (2 mu_x mu_y + c1) (2 sigma_xy + c2) / ((mu_x^2 + mu_y^2 + c1) (sigma_x^2 + sigma_y^2 + c2))

  with c1 = (0.01 peak)^2 and c2 = (0.03 peak)^2 (Wang, Bovik, Sheikh and Simoncelli 2004, eq. 13).
  The window is 11 pixels square, or the largest odd size that fits into a smaller image.

  Args:
    images: [N, H, W, C] float32 original images x.
    reconstructed: [N, H, W, C] float32 reconstructed images y.
    peak: largest possible value of a pixel.
  """
  size = min(_WINDOW, *images.shape[1:3])
  rows, columns = (_filter(pixels, size - 1 + size % 2) for pixels in images.shape[1:3])

  def local(x: Array) -> Array:
    return jnp.einsum("ih,jw,nhwc->nijc", rows, columns, x, precision=jax.lax.Precision.HIGHEST)

  mean_x, mean_y = local(images), local(reconstructed)
  var_x = local(images**2) - mean_x**2
  var_y = local(reconstructed**2) - mean_y**2
  covariance = local(images * reconstructed) - mean_x * mean_y
  c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
  numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
  return (numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean()


def _filter(pixels: int, size: int) -> np.ndarray:
  """Returns [pixels - size + 1, pixels]: the window's weights at every position along one axis."""
  weights = np.exp(-(((np.arange(size) - size // 2) / _SIGMA) ** 2) / 2)
  positions = np.arange(pixels - size + 1)
  matrix = np.zeros((len(positions), pixels), np.float32)
  matrix[positions[:, None], positions[:, None] + np.arange(size)] = weights / weights.sum()
  return matrix
