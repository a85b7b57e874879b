"""The attacker's decoder reconstructs images from activations, and nothing from noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.leakage.inversion import Attack, in_batches, reconstruct
from fedjax_norm.evaluation.leakage.similarity import relative_error

RNG = np.random.default_rng(0)
# Smooth images with four parameters each, stored as bytes.
WAVES = np.sin(np.arange(6)[:, None] * [0.5, 1.1] + [0.3, 1.0])
IMAGES = np.einsum("nab,ia,jb->nij", RNG.random((150, 2, 2)), WAVES, WAVES)
IMAGES = (255 * (IMAGES - IMAGES.min()) / np.ptp(IMAGES)).astype(np.uint8)[..., None]
# The brightest image is attacked, so that one unit can be 0 for all images of the attacker.
IMAGES = IMAGES[np.argsort(IMAGES.sum((1, 2, 3)) == IMAGES.sum((1, 2, 3)).max(), kind="stable")]
BRIGHT = IMAGES[:110].sum((1, 2, 3)).max()
MIX = np.linalg.qr(RNG.normal(size=(36, 36)))[0].astype(np.float32)


def front(variables, images):
  """Applies an invertible map, or a function too sensitive to be learnt from 110 images."""
  flat = images.reshape(len(images), -1).astype(jnp.float32) / 255
  silent = jax.nn.relu(flat.sum(1, keepdims=True) - BRIGHT / 255)
  mixed = jnp.concatenate([flat @ variables["mix"], silent], 1)
  return jnp.where(variables["noise"], jnp.sin(1e5 * mixed), mixed)


def test_the_attack_inverts_an_invertible_map_but_not_noise():
  floats = jnp.asarray(IMAGES / 255, jnp.float32)
  guess = floats[:110].mean(0)
  attack = jax.jit(reconstruct, static_argnums=(0, 6))

  def error(noise):
    variables = {"mix": MIX, "noise": jnp.bool_(noise)}
    images = IMAGES[:110], floats[:110], IMAGES[110:]
    result = attack(front, variables, *images, jax.random.key(0), Attack(120, 32, 1e-2, 8))
    assert result.shape == (40, 6, 6, 1)
    return float(relative_error(floats[110:], result, guess))

  assert error(noise=False) < 0.03
  assert 0.9 < error(noise=True) < 1.15


def test_batches_do_not_change_the_rows():
  x = np.arange(14.0).reshape(7, 2)
  np.testing.assert_array_equal(in_batches(lambda a, b: a + b[:, :1], 3, x, x), x + x[:, :1])


def test_an_attacker_without_steps_is_refused():
  with pytest.raises(UserError, match="at least 1"):
    Attack(0)
