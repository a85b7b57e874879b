"""The operations of each party against those of its layers, counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_norm import models, norm
from fedjax_norm.split.costs import party_flops
from fedjax_norm.split.plan import make_plan

BATCH = 2


def _taps(size, kernel, stride, before):
  """The places of a convolution's windows along a side that lie in the image, of SAME or VALID."""
  last = size - kernel if before is None else size - 1
  starts = range(0, last + 1, stride)
  return sum(0 <= start + k - (before or 0) < size for start in starts for k in range(kernel))


def _linear(macs, outputs, channels, *, ways=3, bias=True):
  """A convolution or a dense layer: two operations a multiply-add.

  Ways are forward, the kernel's gradient and, but for the image, the input's. A bias is an addition
  each, and its gradient a sum of what its channel has.
  """
  count = 2 * ways * macs * BATCH
  return count + (2 * outputs * BATCH - channels if bias else 0)


def _relu(elements):
  """The maximum; backward a comparison and a choice."""
  return 3 * elements * BATCH


def _max_pool(windows, members=4):
  """Maxima and which they are; backward each place of a window is compared and chosen for.

  The zero of those that are not the maximum is converted to a float, once.
  """
  return (3 * (members - 1) + 2 * members) * windows * BATCH + 1


def _mean_pool(elements, channels):
  """A sum and a quotient, whose gradient is a quotient."""
  return (elements - channels + 2 * channels) * BATCH


def _gn(elements, channels, groups):
  """Group norm; the root counts as no operation.

  Forward 7 an element: the two sums, the deviation and its square, (x - mean) scale + shift.
  Backward 9: 4 for the sums of the gradients by shift and scale, 1 for that by x, 2 for the
  square's, 2 that add up what comes over the mean, the deviations and x itself. The rest is by
  channels and groups:
  - a quotient for the mean and one for the variance, epsilon, less the first terms of the two sums
    (+1 a group), scale times gamma (1 a channel);
  - a first term less in both sums over space, the gradients' own products (-scale dshift is 2,
    by gamma 1, by scale 1), both sums over a group's channels, and 5 a group for the root's
    derivative (3) and the two quotients';
  - gamma's and beta's gradients are sums over the batch.
  """
  forward = 7 * elements * BATCH + (groups + channels) * BATCH
  backward = 9 * elements * BATCH + (-2 + 4) * channels * BATCH
  backward += 2 * (channels - groups) * BATCH + 5 * groups * BATCH
  return forward + backward + 2 * (channels * BATCH - channels)


def _normed(macs, outputs, channels, groups, ways=3):
  """A convolution and its norm, if it has one."""
  count = _linear(macs, outputs, channels, ways=ways, bias=groups is None)
  return count if groups is None else count + _gn(outputs, channels, groups)


def _tiny(groups):
  """(head, body, tail) of 8x8x3, cut after conv1 and before the output."""
  conv1 = _normed(_taps(8, 3, 1, 1) ** 2 * 3 * 32, 8 * 8 * 32, 32, groups, ways=2)
  conv2 = _normed(_taps(8, 3, 2, 0) ** 2 * 32 * 64, 4 * 4 * 64, 64, groups)
  conv3 = _normed(_taps(4, 3, 1, 1) ** 2 * 64 * 64, 4 * 4 * 64, 64, groups)
  head = _mean_pool(4 * 4 * 64, 64) + _linear(64 * 10, 10, 10)
  return conv1 + _relu(8 * 8 * 32), conv2 + conv3 + 2 * _relu(4 * 4 * 64), head


def _lenet5(groups):
  """The same of 18x18x1: 14 after the first convolution, pooled to 7; then 3, pooled to 2."""
  conv1 = _normed(_taps(18, 5, 1, None) ** 2 * 20, 14 * 14 * 20, 20, groups, ways=2)
  conv2 = _normed(_taps(7, 5, 1, None) ** 2 * 20 * 50, 3 * 3 * 50, 50, groups)
  dense = _linear(2 * 2 * 50 * 500, 500, 500) + _relu(500)
  body = conv2 + _max_pool(2 * 2 * 50) + dense
  return conv1 + _max_pool(7 * 7 * 20), body, _linear(500 * 10, 10, 10)


def _flops(name, side, channels, groups, *cuts):
  spec = norm.create("none") if groups is None else norm.create("gn", groups=groups)
  image = jax.ShapeDtypeStruct((side, side, channels), jnp.float32)
  model = models.create(name, spec, 10, image.shape)
  return party_flops(model, make_plan(model, image.shape, *cuts), image, BATCH)


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize(
  ("name", "side", "channels", "last", "by_hand"),
  [("tiny", 8, 3, "conv3", _tiny), ("lenet5", 18, 1, "dense", _lenet5)],
)
def test_parties_by_hand(name, side, channels, last, by_hand, groups):
  """To the operation, biases, activations, pools and norms included; there is no loss or update."""
  flops = _flops(name, side, channels, groups, "conv1", last)
  head, body, tail = by_hand(groups)
  assert flops.client * BATCH == head
  assert flops.server * BATCH == body
  assert flops.client_crossing * BATCH == tail
  assert flops.relays == 0


def test_relays_have_what_lies_between():
  flops = _flops("tiny", 8, 3, None, "conv1", None, ("conv2", "conv3"))
  assert (flops.client * BATCH, flops.relays * BATCH, flops.server * BATCH) == _tiny(None)
