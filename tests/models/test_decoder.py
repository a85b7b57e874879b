"""The decoder outputs images of the right size for any activation, and can be trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_norm.models.decoder import Decoder
from fedjax_norm.norm import Mode


@pytest.mark.parametrize(
  ("activation", "image"),
  [
    ((2, 4, 4, 6), (8, 8, 1)),
    ((2, 3, 2, 5), (28, 25, 3)),  # no multiples
    ((2, 1, 1, 7), (9, 9, 1)),
    ((2, 12, 12, 4), (9, 10, 1)),  # larger than the image, as after a padded convolution
    ((2, 50), (32, 30, 3)),
    ((2, 5, 6), (8, 8, 1)),  # a sequence
  ],
)
def test_any_activation_becomes_an_image(activation, image):
  decoder = Decoder(image, features=4)
  shape, variables = jax.eval_shape(
    lambda: decoder.init_with_output(jax.random.key(0), jnp.zeros(activation), Mode())
  )
  assert shape.shape == (2, *image)
  assert set(variables) == {"params"}  # no norm, so no statistics


def test_a_pixel_depends_only_on_nearby_activations():
  x = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
  x[1] = x[0]
  x[1, 0, 0] += 1
  images, _ = jax.jit(
    lambda: Decoder((8, 8, 1), 4).init_with_output(jax.random.key(0), x, Mode())
  )()
  changed = np.abs(images[1] - images[0])[..., 0] > 0
  assert changed[:4, :4].all()
  assert not changed[7].any()
  assert not changed[:, 7].any()


def test_it_learns_to_enlarge_small_images():
  rng = np.random.default_rng(0)
  small = jnp.asarray(rng.random((32, 4, 4, 1)), jnp.float32)
  images = jnp.repeat(jnp.repeat(small, 2, 1), 2, 2)
  decoder = Decoder((8, 8, 1), features=8)
  params = decoder.init(jax.random.key(0), small, Mode())
  optimizer = optax.adam(1e-2)

  def loss(params):
    return jnp.mean((decoder.apply(params, small, Mode()) - images) ** 2)

  @jax.jit
  def train(params):
    def step(carry, _):
      params, state = carry
      value, grads = jax.value_and_grad(loss)(params)
      updates, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, updates), state), value

    return jax.lax.scan(step, (params, optimizer.init(params)), None, 150)[1]

  losses = train(params)
  assert losses[-1] < 0.2 * float(images.var())
