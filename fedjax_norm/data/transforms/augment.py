"""Images on the device: scaling, random crops and flips, and shifts that differ by client.

All but the host functions are pure and can be jitted and vmapped. Where something is random, an
example's result depends on the key and on its own place or id alone, not on the other examples.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data import process_local
from fedjax_norm.errors import UserError
from fedjax_norm.norm import moments as moments_lib
from fedjax_norm.norm.moments import Moments
from fedjax_norm.typing import Array, Key

SHIFT_KINDS = ("noise", "brightness")
"""What `feature_shift` can do to the images of a client."""

Prepare = Callable[[np.ndarray], np.ndarray]
"""Stored images [B, H, W, C] -> float64, as their statistics are taken; on the host."""

_STD_FLOOR = 1e-3


def to_float(images: Array) -> Array:
  """Converts images to float32: uint8 is divided by 255, floating values stay as they are."""
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255.0
  return images.astype(jnp.float32)


def to_unit(images: np.ndarray) -> np.ndarray:
  """What `to_float` gives, in float64 on the host."""
  floats = images.astype(np.float64)
  return floats / 255.0 if images.dtype == np.uint8 else floats


def channel_moments(
  images: np.ndarray, ids: np.ndarray | None = None, prepare: Prepare = to_unit
) -> Moments:
  """Computes the moments of each channel, on the host in float64.

  Args:
    images: [N, H, W, C] uint8 or float32.
    ids: of the images that count, which alone are read; None is all of them.
    prepare: what is done to the images before; by default they are on the scale of `to_float`.

  Returns:
    Count, a scalar, and mean and m2, [C] float64 each.

  Raises:
    UserError: there are no images, or they are not [N, H, W, C].
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
  """Merges the moments of parts of the images, such as those of several processes.

  Args:
    parts: as `channel_moments` makes them, at least one.

  Returns:
    The same for all the images together.
  """
  stacked = Moments(*(np.stack(values) for values in zip(*parts, strict=True)))
  with jax.enable_x64(True):
    merged = moments_lib.merge(stacked._replace(count=stacked.count[:, None]))
    return Moments(np.asarray(merged.count)[0], np.asarray(merged.mean), np.asarray(merged.m2))


def channel_statistics(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
  """Gives the mean and standard deviation of each channel.

  Args:
    moments: of all the images, as `channel_moments` makes them.

  Returns:
    The means and the biased standard deviations, [C] float32 each; a deviation is at least 0.001,
    so that a constant channel can be divided by it.
  """
  std = np.sqrt(moments.m2 / moments.count)
  return moments.mean.astype(np.float32), np.maximum(std, _STD_FLOOR).astype(np.float32)


def standardise(images: Array, mean: Array, std: Array) -> Array:
  """Computes (images - mean) / std by channel.

  Args:
    images: [..., C] float32.
    mean: [C].
    std: [C], positive.
  """
  by_channel = (1,) * (images.ndim - 1) + (-1,)
  return (images - jnp.reshape(mean, by_channel)) / jnp.reshape(std, by_channel)


def crop_flip(key: Key, images: Array, pad: int = 4, flip: bool = True) -> Array:
  """Shifts each image at random by up to `pad` pixels each way and mirrors half of them.

  The image is padded with zeros on every side and cropped to its size again at a uniform offset,
  then mirrored left to right with probability one half. Zeros are the mean colour if the images
  are standardised first.

  Args:
    key: the source of chance; example i draws from fold_in(key, i).
    images: [B, H, W, C] float32.
    pad: pixels, static, at least 0; 0 does not crop.
    flip: static; False does not mirror, for images that mean something else mirrored.

  Returns:
    [B, H, W, C].
  """

  def one(index, image):
    crop_key, flip_key = jax.random.split(jax.random.fold_in(key, index))
    if pad:
      top, left = jax.random.randint(crop_key, (2,), 0, 2 * pad + 1)
      padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
      image = jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)
    if flip:
      image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    return image

  return jax.vmap(one)(jnp.arange(images.shape[0], dtype=jnp.uint32), images)


def feature_shift(images: Array, kind: str, strength: Array, example_ids: Array, key: Key) -> Array:
  """Shifts the features of one client's images, so that clients differ at equal labels.

  `noise` adds strength * z with z ~ N(0, 1), drawn for each example id from fold_in(key, id): an
  example has the same noise in every epoch. `brightness` adds the strength itself. Nothing is
  clipped (paper 004, app. K: same label, different features).

  Args:
    images: [B, H, W, C] float32.
    kind: one of `SHIFT_KINDS`, static.
    strength: float32 scalar, this client's, in units of the images; 0 changes nothing.
    example_ids: [B] int32, at least 0.
    key: the same for all clients and rounds of a run.

  Returns:
    [B, H, W, C] float32.
  """
  if kind == "brightness":
    return images + strength
  shape = images.shape[1:]
  noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape, images.dtype))
  return images + strength * noise(example_ids)


def client_strengths(kind: str, num_clients: int, scale: float) -> np.ndarray:
  """Spaces the strengths of the clients evenly; on the host.

  Args:
    kind: one of `SHIFT_KINDS`; `noise` goes from 0 to `scale`, `brightness` from -scale to scale.
    num_clients: K, at least 1; a single client is not shifted.
    scale: the largest strength, finite and at least 0.

  Returns:
    [K] float32.
  """
  if num_clients == 1:
    return np.zeros(1, np.float32)
  return np.linspace(0 if kind == "noise" else -scale, scale, num_clients, dtype=np.float32)
