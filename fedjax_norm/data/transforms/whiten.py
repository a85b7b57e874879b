"""Global contrast normalization, mean images and ZCA whitening (paper 003, sec. 4.2 and 4.3)."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data import process_local
from fedjax_norm.data.transforms.augment import Prepare
from fedjax_norm.errors import UserError
from fedjax_norm.typing import Array

# The matrix has as many rows and columns as an image has numbers.
_MOST_NUMBERS = 64 * 64 * 3


def contrast_normalise(
  images: Array, scale: float = 1.0, regulariser: float = 10 / 255**2, floor: float = 1e-8
) -> Array:
  """Gives every image mean 0 and about the same deviation, by itself.

  x' = s (x - mean(x)) / max(floor, sqrt(lambda + var(x))), the mean and the variance over the
  pixels and channels of one image (Goodfellow, Bengio and Courville 2016, eq. 12.3).

  Args:
    images: [..., H, W, C] floating, of NumPy or JAX.
    scale: s.
    regulariser: lambda, so that an image without contrast is not all noise; by default Coates, Ng
      and Lee's (2011) 10 for pixels of 0 to 255, on the scale of 0 to 1.
    floor: of the divisor.
  """
  axes = (-3, -2, -1)
  centred = images - images.mean(axes, keepdims=True)
  deviation = (regulariser + (centred**2).mean(axes, keepdims=True)) ** 0.5
  return scale * centred / deviation.clip(floor)


class Whitening(NamedTuple):
  """An affine map of whole images.

  Attributes:
    mean: [D] float32, D = H W C.
    matrix: [D, D] float32, symmetric.
  """

  mean: np.ndarray
  matrix: np.ndarray


def mean_image(images: np.ndarray, prepare: Prepare) -> np.ndarray:
  """The mean over the images, pixel by pixel: [H, W, C] float32, summed in float64 on the host."""
  total = sum(block.sum(0) for block in _prepared(images, prepare))
  return (total / len(images)).astype(np.float32)


def fit_zca(images: np.ndarray, prepare: Prepare, epsilon: float) -> Whitening:
  """ZCA whitening: the symmetric map after which the images' numbers are uncorrelated.

  W = U (L + epsilon mean(L) I)^(-1/2) U^T with the covariance U L U^T of the images (Bell and
  Sejnowski 1997; Krizhevsky 2009, app. A), so that of all whitening maps it changes an image least.
  epsilon is a share of the mean variance: without it, directions in which images hardly differ
  would become as loud as all others. The covariance is summed block by block in float64, on the
  host.

  Args:
    images: [N, H, W, C], as stored.
    prepare: what is done to them before.
    epsilon: at least 0; 0 needs images that vary in every direction.

  Raises:
    UserError: images too large for a matrix of all pairs of their numbers, or an epsilon of 0 with
      images that do not vary in some direction.
  """
  numbers = int(np.prod(images.shape[1:]))
  if numbers > _MOST_NUMBERS:
    raise UserError(
      f"ZCA whitening of images of {numbers:,} numbers needs a matrix of {numbers:,} rows and"
      f" columns; make them smaller (--image_size), down to {_MOST_NUMBERS:,} at the most."
    )
  mean = sum(block.sum(0) for block in _prepared(images, prepare)).ravel() / len(images)
  covariance = np.zeros((numbers, numbers))
  for block in _prepared(images, prepare):
    centred = block.reshape(len(block), -1) - mean
    covariance += centred.T @ centred
  values, vectors = np.linalg.eigh(covariance / len(images))
  values = values.clip(0) + epsilon * values.mean()
  if not values.min() > 1e-12 * values.max():
    raise UserError(
      "ZCA whitening needs an epsilon above 0 here, for there are directions in which the training"
      " images do not differ; 0.1 is usual."
    )
  matrix = (vectors / np.sqrt(values)) @ vectors.T
  return Whitening(mean.astype(np.float32), matrix.astype(np.float32))


def whiten(images: Array, whitening: Whitening) -> Array:
  """Computes (x - mean) W of each image x, taken as one row: [..., H, W, C] float32."""
  rows = images.reshape(*images.shape[:-3], -1) - jnp.asarray(whitening.mean)
  product = jnp.matmul(rows, jnp.asarray(whitening.matrix), precision=jax.lax.Precision.HIGHEST)
  return product.reshape(images.shape)


def _prepared(images: np.ndarray, prepare: Prepare) -> Iterator[np.ndarray]:
  return map(prepare, process_local.image_blocks(images, None))
