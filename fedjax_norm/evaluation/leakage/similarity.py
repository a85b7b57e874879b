"""How like their originals reconstructed images are."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.typing import Array

_WINDOW, _SIGMA = 11, 1.5  # of Wang et al. 2004
_K1, _K2 = 0.01, 0.03


def relative_error(images: Array, found: Array, guess: Array) -> Array:
  """sum (x - x')^2 / sum (x - guess)^2: 0 is perfect, 1 as good as the guess; a scalar.

  Args:
    images: [N, H, W, C] float32.
    found: the same.
    guess: [H, W, C], what can be said without any look, such as the mean of other images.
  """
  return jnp.square(images - found).sum() / jnp.square(images - guess).sum()


def psnr(images: Array, found: Array, peak: float = 1.0) -> Array:
  """10 log10(peak^2 / MSE) in decibels, the mean over the images [N, H, W, C]; a scalar."""
  errors = jnp.square(images - found).mean((1, 2, 3))
  return (10 * jnp.log10(peak**2 / errors)).mean()


def ssim(images: Array, found: Array, peak: float = 1.0) -> Array:
  """Structural similarity, the mean over images and channels; 1 is alike, a scalar.

  With the means, variances and covariance under a Gaussian window, at every place where it fits,

    (2 mu_x mu_y + c1) (2 sigma_xy + c2) / ((mu_x^2 + mu_y^2 + c1) (sigma_x^2 + sigma_y^2 + c2))

  c1 = (0.01 peak)^2 and c2 = (0.03 peak)^2 (Wang, Bovik, Sheikh and Simoncelli 2004, eq. 13). The
  window is 11 pixels square with sigma 1.5; on smaller images it is the largest odd one that fits.

  Args:
    images: [N, H, W, C] float32.
    found: the same.
    peak: the largest value.
  """
  size = min(_WINDOW, *images.shape[1:3])
  rows, columns = (_filter(pixels, size - 1 + size % 2) for pixels in images.shape[1:3])

  def local(x: Array) -> Array:
    return jnp.einsum("ih,jw,nhwc->nijc", rows, columns, x, precision=jax.lax.Precision.HIGHEST)

  mean_x, mean_y = local(images), local(found)
  var_x = local(images**2) - mean_x**2
  var_y = local(found**2) - mean_y**2
  both = local(images * found) - mean_x * mean_y
  c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
  above = (2 * mean_x * mean_y + c1) * (2 * both + c2)
  return (above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean()


def _filter(pixels: int, size: int) -> np.ndarray:
  """[pixels - size + 1, pixels]: the window's weights at every place, of one side."""
  weights = np.exp(-(((np.arange(size) - size // 2) / _SIGMA) ** 2) / 2)
  places = np.arange(pixels - size + 1)
  matrix = np.zeros((len(places), pixels), np.float32)
  matrix[places[:, None], places[:, None] + np.arange(size)] = weights / weights.sum()
  return matrix
