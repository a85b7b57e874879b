"""Random crops and flips, and feature shifts that differ by client.

Except for `client_strengths`, the functions are pure and can be jitted and vmapped. The random
changes of an example depend only on the key and on its position in the batch or its id.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.typing import Array, Key

SHIFT_KINDS = ("noise", "brightness")
"""The kinds of `feature_shift`."""

PADDINGS = ("zeros", "reflect")
"""What `crop_flip` adds at an image's edges: zeros, or the image mirrored at its outermost pixels,
which are not repeated."""


def crop_flip(
  key: Key, images: Array, pad: int = 4, flip: bool = True, padding: str = "zeros"
) -> Array:
  """Shifts each image at random by up to `pad` pixels in each direction and mirrors half of them.

  An image is padded on every side, cropped to its size at a uniform offset, and mirrored
  horizontally with probability one half. Zeros are the mean colour if the images are standardised
  first.

  Args:
    key: random key; example i uses fold_in(key, i).
    images: [B, H, W, C] float32.
    pad: padding in pixels, static, at least 0; 0 does not crop.
    flip: whether to mirror, static; False is for images whose meaning mirroring changes.
    padding: one of `PADDINGS`, static.

  Returns:
    [B, H, W, C].
  """

  mode = "constant" if padding == "zeros" else padding

  def one(index: Array, image: Array) -> Array:
    crop_key, flip_key = jax.random.split(jax.random.fold_in(key, index))
    if pad:
      top, left = jax.random.randint(crop_key, (2,), 0, 2 * pad + 1)
      padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode)
      image = jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)
    if flip:
      image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    return image

  return jax.vmap(one)(jnp.arange(images.shape[0], dtype=jnp.uint32), images)


def feature_shift(images: Array, kind: str, strength: Array, example_ids: Array, key: Key) -> Array:
  """Shifts the features of one client's images (paper 004, app. K: same label, different features).

  `noise` adds strength * z with z ~ N(0, 1), drawn for each example id from fold_in(key, id), so an
  example has the same noise in every epoch. `brightness` adds the strength. Nothing is clipped.

  Args:
    images: [B, H, W, C] float32.
    kind: one of `SHIFT_KINDS`, static.
    strength: the client's float32 scalar, in units of pixel values; 0 changes nothing.
    example_ids: [B] int32, at least 0.
    key: random key, the same for all clients and rounds of a run.

  Returns:
    [B, H, W, C] float32.
  """
  if kind == "brightness":
    return images + strength
  shape = images.shape[1:]
  noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape, images.dtype))
  return images + strength * noise(example_ids)


def client_strengths(kind: str, num_clients: int, scale: float) -> np.ndarray:
  """Returns the evenly spaced strengths of the clients' feature shifts, on the host.

  Args:
    kind: one of `SHIFT_KINDS`; `noise` has strengths from 0 to `scale`, `brightness` from -scale to
      scale.
    num_clients: K, at least 1; a single client is not shifted.
    scale: largest strength, finite and at least 0.

  Returns:
    [K] float32.
  """
  if num_clients == 1:
    return np.zeros(1, np.float32)
  return np.linspace(0 if kind == "noise" else -scale, scale, num_clients, dtype=np.float32)
