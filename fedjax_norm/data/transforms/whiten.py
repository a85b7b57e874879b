"""Global contrast normalization, mean images and ZCA whitening (paper 003, sec. 4.2 and 4.3)."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data import process_local
from fedjax_norm.data.transforms.scaling import Prepare
from fedjax_norm.errors import UserError
from fedjax_norm.typing import Array

# The largest D = H W C: the whitening matrix is [D, D].
_MOST_NUMBERS = 64 * 64 * 3


def contrast_normalise(
  images: Array, scale: float = 1.0, regulariser: float = 10 / 255**2, floor: float = 1e-8
) -> Array:
  """Gives every image mean 0 and about the same standard deviation.

  x' = s (x - mean(x)) / max(floor, sqrt(lambda + var(x))), with mean and variance over the
  pixels and channels of one image (Goodfellow, Bengio and Courville 2016, eq. 12.3).

  Args:
    images: [..., H, W, C] floating array of NumPy or JAX.
    scale: s, about the standard deviation of the result.
    regulariser: lambda, which keeps images without contrast from becoming all noise; by default 10
      for pixels from 0 to 255, as Coates, Ng and Lee (2011), on the scale of 0 to 1.
    floor: smallest divisor.
  """
  axes = (-3, -2, -1)
  centred = images - images.mean(axes, keepdims=True)
  deviation = (regulariser + (centred**2).mean(axes, keepdims=True)) ** 0.5
  return scale * centred / deviation.clip(floor)


class Whitening(NamedTuple):
  """The whitening map x -> (x - mean) W of images of D = H W C numbers.

  Attributes:
    mean: [D] float32.
    matrix: W, [D, D] float32, symmetric.
  """

  mean: np.ndarray
  matrix: np.ndarray


def mean_image(images: np.ndarray, prepare: Prepare) -> np.ndarray:
  """Returns the mean [H, W, C] float32 of the images after `prepare`, summed in float64."""
  total = sum(block.sum(0) for block in _prepared(images, prepare))
  return (total / len(images)).astype(np.float32)


def fit_zca(images: np.ndarray, prepare: Prepare, epsilon: float) -> Whitening:
  """Fits ZCA whitening: the symmetric map that makes the images' pixels uncorrelated.

  W = U (L + epsilon mean(L) I)^(-1/2) U^T with the covariance U L U^T of the images (Bell and
  Sejnowski 1997; Krizhevsky 2009, app. A). Of all whitening maps this one changes images least.
  epsilon is relative to the mean variance: without it, directions in which images hardly differ
  would get the variance of all others. The covariance is summed in blocks, in float64 on the host.

  Args:
    images: [N, H, W, C], as stored.
    prepare: conversion of the images before whitening.
    epsilon: number of at least 0; 0 requires images that vary in every direction.

  Raises:
    UserError: the images are too large for the matrix W, or epsilon is 0 and the images do not
      vary in some direction.
  """
  numbers = int(np.prod(images.shape[1:]))
  if numbers > _MOST_NUMBERS:
    raise UserError(
      f"ZCA whitening of images of {numbers:,} numbers needs a matrix of {numbers:,} rows and"
      f" columns; make the images smaller (--image_size), at most {_MOST_NUMBERS:,} numbers."
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
      "ZCA whitening needs an epsilon above 0 (--zca_epsilon), because the training images do not"
      " differ in some directions; 0.1 is usual."
    )
  matrix = (vectors / np.sqrt(values)) @ vectors.T
  return Whitening(mean.astype(np.float32), matrix.astype(np.float32))


def whiten(images: Array, whitening: Whitening) -> Array:
  """Returns (x - mean) W for each image x, flattened to a row vector: [..., H, W, C] float32."""
  rows = images.reshape(*images.shape[:-3], -1) - jnp.asarray(whitening.mean)
  product = jnp.matmul(rows, jnp.asarray(whitening.matrix), precision=jax.lax.Precision.HIGHEST)
  return product.reshape(images.shape)


def _prepared(images: np.ndarray, prepare: Prepare) -> Iterator[np.ndarray]:
  return map(prepare, process_local.image_blocks(images, None))
