"""Pooling against torch, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedjax_norm.ops.pool import avg_pool, ceil_pads, max_pool

THEIRS = {
  "max": functools.partial(F.max_pool2d, ceil_mode=True),
  "avg": functools.partial(F.avg_pool2d, ceil_mode=True, count_include_pad=False),
}
OURS = {"max": max_pool, "avg": avg_pool}


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def pooled(kind, x, dy, size, stride, pads):
  y, pullback = jax.vjp(lambda x: OURS[kind](x, size, stride, pads), x)
  return y, pullback(dy)[0]


def check(kind, shape, size, stride, pads, theirs):
  rng = np.random.default_rng(0)
  # All values differ, and are negative, so that a maximum over zero padding would be wrong.
  x = (rng.permutation(np.prod(shape)).reshape(shape) - np.prod(shape)).astype(np.float32) / 8
  theirs_x = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
  expected = theirs(theirs_x)
  dy = torch.tensor(rng.standard_normal(expected.shape).astype(np.float32))
  expected.backward(dy)
  y, dx = pooled(kind, x, dy.permute(0, 2, 3, 1).numpy(), size, stride, pads)
  np.testing.assert_allclose(y, expected.detach().permute(0, 2, 3, 1), rtol=1e-5)
  np.testing.assert_allclose(dx, theirs_x.grad.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize(
  ("image", "size", "stride"),
  [
    ((8, 8), 3, 2),  # the last window reaches beyond the image
    ((7, 9), 3, 2),  # no window does
    ((6, 5), 3, 2),  # a window does on one axis
    ((5, 7), 2, 2),
    ((9, 8), 3, 3),
    ((5, 6), 3, 1),
    ((5, 8), 1, 3),  # the next window would begin outside, so it is omitted
    ((6, 9), 2, 4),
    ((3, 3), 3, 2),
  ],
)
def test_pools_that_round_up_equal_torch(kind, image, size, stride):
  theirs = functools.partial(THEIRS[kind], kernel_size=size, stride=stride)
  check(kind, (2, *image, 3), size, stride, ceil_pads(image, size, stride), theirs)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize(("size", "stride", "pad"), [(3, 2, 0), (2, 2, 0), (3, 2, 1), (4, 1, 2)])
def test_pools_that_round_down_equal_torch(kind, size, stride, pad):
  theirs = functools.partial(
    THEIRS[kind], kernel_size=size, stride=stride, padding=pad, ceil_mode=False
  )
  check(kind, (2, 8, 7, 3), size, stride, ((pad, pad), (pad, pad)), theirs)


def test_an_image_smaller_than_the_window_is_one_window():
  assert ceil_pads((2, 1), 3, 2) == ((0, 1), (0, 2))
  x = np.array([[4.0], [2.0]], np.float32).reshape(1, 2, 1, 1)
  assert max_pool(x, 3, 2, ceil_pads((2, 1), 3, 2)).item() == 4
  assert avg_pool(x, 3, 2, ceil_pads((2, 1), 3, 2)).item() == 3


def test_the_first_of_equal_maxima_gets_the_gradient():
  # As in torch. After a ReLU, windows with only zeros are common.
  x, dy = np.zeros((1, 5, 5, 1), np.float32), np.arange(4, dtype=np.float32) + 1
  _, dx = pooled("max", x, dy.reshape(1, 2, 2, 1), 3, 2, ((0, 0), (0, 0)))
  expected = np.zeros((5, 5), np.float32)
  expected[0, 0], expected[0, 2], expected[2, 0], expected[2, 2] = dy
  np.testing.assert_array_equal(dx[0, :, :, 0], expected)


@pytest.mark.parametrize("kind", OURS)
def test_second_derivatives_are_those_of_a_matrix_of_windows(kind):
  x = np.random.default_rng(0).standard_normal((1, 5, 7, 1)).astype(np.float32)

  def stacked(x):
    windows = jnp.stack([x[:, a : a + 3 : 2, b : b + 5 : 2] for a in range(3) for b in range(3)])
    return windows.max(0) if kind == "max" else windows.mean(0)

  def second_derivatives(pool):
    squares = jax.grad(lambda x: (pool(x) ** 3).sum())
    return jax.jit(jax.grad(lambda x: (squares(x) ** 2).sum()))(x)

  ours = second_derivatives(lambda x: OURS[kind](x, 3, 2))
  np.testing.assert_allclose(ours, second_derivatives(stacked), rtol=1e-4, atol=1e-5)


def test_windows_larger_than_the_padded_image_are_rejected():
  with pytest.raises(ValueError, match="windows of size 4 do not fit"):
    max_pool(np.zeros((1, 3, 4, 1), np.float32), 4, 2)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("how", ["vmap", "scan"])
def test_mapped_pools_equal_a_loop(kind, how):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((3, 2, 6, 5, 2)).astype(np.float32)
  dy = rng.standard_normal((3, 2, 3, 3, 2)).astype(np.float32)

  def one(x, dy):
    return pooled(kind, x, dy, 3, 2, ((1, 0), (1, 1)))

  if how == "vmap":
    mapped = jax.jit(jax.vmap(one))(x, dy)
  else:
    mapped = jax.lax.scan(lambda carry, args: (carry, one(*args)), None, (x, dy))[1]
  for i in range(3):
    for ours, single in zip(mapped, one(x[i], dy[i]), strict=True):
      np.testing.assert_allclose(ours[i], single, rtol=1e-6)
