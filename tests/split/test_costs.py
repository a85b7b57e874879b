"""The FLOPs of each party, and the bytes of a pass for statistics, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from helpers.split_world import IMAGE, SHAPE, net

from fedjax_norm import models, norm
from fedjax_norm.split.costs import party_flops
from fedjax_norm.split.plan import make_plan, segment_shapes
from fedjax_norm.split.tally import pass_cost

BATCH = 2


def _taps(size, kernel, stride, before):
  """Counts the positions of a convolution's windows along a side that lie inside the image.

  ``before`` is the padding before the image under SAME, or None for VALID.
  """
  last = size - kernel if before is None else size - 1
  starts = range(0, last + 1, stride)
  return sum(0 <= start + k - (before or 0) < size for start in starts for k in range(kernel))


def _linear(macs, outputs, channels, *, ways=3, bias=True):
  """Returns the FLOPs of a convolution or a dense layer: two per multiply-add.

  The ways are forward, the gradient of the kernel and, except for images, that of the input. A bias
  is one addition per output, and its gradient is a sum over each channel.
  """
  count = 2 * ways * macs * BATCH
  return count + (2 * outputs * BATCH - channels if bias else 0)


def _relu(elements, groups=None):
  """Returns the FLOPs of ReLU: a maximum; backward a comparison and a selection.

  After a norm, the backward pass computes the output (scale and shift) again.
  """
  return (3 if groups is None else 5) * elements * BATCH


def _max_pool(windows, members=4):
  """Returns the FLOPs of max pooling: maxima and their positions; backward a comparison and a
  selection for each element of a window, and one conversion of zero to float.
  """
  return (3 * (members - 1) + 2 * members) * windows * BATCH + 1


def _mean_pool(elements, channels):
  """Returns the FLOPs of mean pooling: a sum and a quotient; backward a quotient."""
  return (elements - channels + 2 * channels) * BATCH


def _gn(elements, channels, groups):
  """Returns the FLOPs of group norm; the square root counts as no operation.

  Forward, 7 per element: two sums, the deviation and its square, (x - mean) scale + shift.
  Backward, 9 per element: 4 for the sums of the gradients by shift and scale, 1 for the gradient by
  x, 2 for that of the square, 2 to add those by way of the mean, the deviations and x. The other
  FLOPs are per channel and group:
  - the quotients of mean and variance and epsilon, minus the first terms of the two sums (+1 per
    group), and scale times gamma (1 per channel);
  - minus the first terms of both sums over space, the products in the gradients (-scale dshift is
    2, by gamma 1, by scale 1), both sums over the channels of a group, and 5 per group for the
    derivatives of the root (3) and of the two quotients;
  - in the backward pass, scale times gamma again (1 per channel), and twice the derivative by m2
    (1 per group);
  - the gradients of gamma and beta, which are sums over the batch.
  """
  forward = 7 * elements * BATCH + (groups + channels) * BATCH
  backward = 9 * elements * BATCH + (-2 + 4) * channels * BATCH
  backward += 2 * (channels - groups) * BATCH + 5 * groups * BATCH
  backward += (channels + groups) * BATCH
  return forward + backward + 2 * (channels * BATCH - channels)


def _normed(macs, outputs, channels, groups, ways=3):
  """Returns the FLOPs of a convolution and its norm, if it has one."""
  count = _linear(macs, outputs, channels, ways=ways, bias=groups is None)
  return count if groups is None else count + _gn(outputs, channels, groups)


def _tiny(groups):
  """Returns those of (head, body, tail) for 8x8x3, cut after conv1 and before the output."""
  conv1 = _normed(_taps(8, 3, 1, 1) ** 2 * 3 * 32, 8 * 8 * 32, 32, groups, ways=2)
  conv2 = _normed(_taps(8, 3, 2, 0) ** 2 * 32 * 64, 4 * 4 * 64, 64, groups)
  conv3 = _normed(_taps(4, 3, 1, 1) ** 2 * 64 * 64, 4 * 4 * 64, 64, groups)
  head = _mean_pool(4 * 4 * 64, 64) + _linear(64 * 10, 10, 10)
  body = conv2 + conv3 + 2 * _relu(4 * 4 * 64, groups)
  return conv1 + _relu(8 * 8 * 32, groups), body, head


def _lenet5(groups):
  """Likewise for 18x18x1, with sides of 14 after conv1, 7 pooled, 3 after conv2 and 2 pooled."""
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
def test_flops_equal_the_hand_count(name, side, channels, last, by_hand, groups):
  """Exactly, with biases, activations, pools and norms, without loss and update."""
  flops = _flops(name, side, channels, groups, "conv1", last)
  head, body, tail = by_hand(groups)
  assert flops.client * BATCH == head
  assert flops.server * BATCH == body
  assert flops.client_crossing * BATCH == tail
  assert flops.relays == 0


def test_relays_have_the_stages_between():
  flops = _flops("tiny", 8, 3, None, "conv1", None, ("conv2", "conv3"))
  assert (flops.client * BATCH, flops.relays * BATCH, flops.server * BATCH) == _tiny(None)


def test_a_pass_sends_activations_and_moments():
  model = net("bn")
  plan = make_plan(model, SHAPE, "mix", "body")
  cost = pass_cost(plan, *segment_shapes(model, plan, IMAGE))
  # Down: conv, mix and two norms of 4 channels, and the head with 6 inputs.
  assert cost.down == 4 * (2 * 2 * 4 + (4 * 4 + 4) + 2 * (4 + 4) + (6 * 4 + 4))
  assert cost.up == 4 * 2 * (2 * 4 + 1)  # mean, m2 and count of the two norms
  # For every example the 3x3x4 map of mix goes up and the 6 outputs of body come down.
  assert (cost.step_up, cost.step_down, cost.step_trips) == (4 * 36, 4 * 6, 0)
  assert cost.of_round([5, 7]).bytes_up == 2 * cost.up + 12 * 144
