"""Scales images to [0, 1], and channels to mean 0 and standard deviation 1.

The statistics of channels are computed on the host; `to_float` and `standardise` run on the device.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data import process_local
from fedjax_norm.errors import UserError
from fedjax_norm.norm import moments as moments_lib
from fedjax_norm.norm.moments import Moments
from fedjax_norm.typing import Array

Prepare = Callable[[np.ndarray], np.ndarray]
"""Stored images [B, H, W, C] -> float64 images, on the host, to compute statistics of."""

_STD_FLOOR = 1e-3


def to_float(images: Array) -> Array:
  """Converts images to float32; uint8 is divided by 255, floating values do not change."""
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255.0
  return images.astype(jnp.float32)


def to_unit(images: np.ndarray) -> np.ndarray:
  """Converts images to float64 on the host, with the scale of `to_float`."""
  floats = images.astype(np.float64)
  return floats / 255.0 if images.dtype == np.uint8 else floats


def channel_moments(
  images: np.ndarray, ids: np.ndarray | None = None, prepare: Prepare = to_unit
) -> Moments:
  """Computes the moments of each channel, on the host in float64.

  Args:
    images: [N, H, W, C] uint8 or float32.
    ids: ids of the images to read; None is all of them.
    prepare: conversion of the images before their moments are computed.

  Returns:
    The count, a scalar, and mean and sum of squared deviations m2, [C] float64 each.

  Raises:
    UserError: there are no images, or their shape is not [N, H, W, C].
  """
  number = len(images) if ids is None else len(ids)
  if images.ndim != 4 or not images.size or not number:
    raise UserError(
      f"Channel statistics need images [N, H, W, C], not {number} of shape {images.shape}."
    )
  count = np.float64(number * images.shape[1] * images.shape[2])
  axes = (0, 1, 2)
  mean = sum(prepare(block).sum(axes) for block in process_local.image_blocks(images, ids)) / count
  m2 = sum(
    np.square(prepare(block) - mean).sum(axes) for block in process_local.image_blocks(images, ids)
  )
  return Moments(count, mean, m2)


def merge_channel_moments(parts: Sequence[Moments]) -> Moments:
  """Merges moments of disjoint sets of images, such as those of several processes."""
  stacked = Moments(*(np.stack(values) for values in zip(*parts, strict=True)))
  with jax.enable_x64(True):
    merged = moments_lib.merge(stacked._replace(count=stacked.count[:, None]))
    return Moments(np.asarray(merged.count)[0], np.asarray(merged.mean), np.asarray(merged.m2))


def channel_statistics(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
  """Returns the means and the biased standard deviations of channels, [C] float32 each.

  A standard deviation is at least 0.001, so that a constant channel can be divided by it.
  """
  std = np.sqrt(moments.m2 / moments.count)
  return moments.mean.astype(np.float32), np.maximum(std, _STD_FLOOR).astype(np.float32)


def standardise(images: Array, mean: Array, std: Array) -> Array:
  """Returns (images - mean) / std by channel, for images [..., C] float32 and positive std [C]."""
  by_channel = (1,) * (images.ndim - 1) + (-1,)
  return (images - jnp.reshape(mean, by_channel)) / jnp.reshape(std, by_channel)
