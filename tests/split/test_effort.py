"""The operations of each party against those of its layers, counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_norm import models, norm
from fedjax_norm.split.effort import party_flops
from fedjax_norm.split.plan import make_plan

IMAGE = jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)


def _conv(size, stride, inputs, outputs):
  """Multiply-adds of a padded 3x3 convolution: the taps of a row that lie in the image, squared."""
  taps = sum(
    0 <= stride * i + k - (1 if stride == 1 else 0) < size
    for i in range(-(-size // stride))
    for k in range(3)
  )
  return taps**2 * inputs * outputs


def test_tiny_by_hand():
  model = models.create("tiny", norm.create("none"), 10, IMAGE.shape)
  effort = party_flops(model, make_plan(model, IMAGE.shape, "conv1", "conv3"), IMAGE, 2)
  conv1, conv2, conv3 = _conv(8, 1, 3, 32), _conv(8, 2, 32, 64), _conv(4, 1, 64, 64)
  # Two operations a multiply-add; of the image there is no gradient. Biases, activations, the pool
  # and the update of the weights are a little besides.
  assert effort.client == pytest.approx(2 * 2 * conv1, rel=0.1)
  assert effort.server == pytest.approx(2 * 3 * (conv2 + conv3), rel=0.02)
  assert effort.client_crossing == pytest.approx(2 * 3 * 640, rel=0.9)
  assert effort.relays == 0
  relayed = party_flops(
    model, make_plan(model, IMAGE.shape, "conv1", None, ("conv2", "conv3")), IMAGE, 2
  )
  assert relayed.relays == effort.server
  assert relayed.server == effort.client_crossing
