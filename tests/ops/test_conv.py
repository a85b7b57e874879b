"""The forms of the convolution against each other and torch, also under vmap and scan."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.ops.conv import conv
from fedjax_norm.ops.geometry import Geometry
from fedjax_norm.ops.lowerings import FORMS, canonical, winograd
from fedjax_norm.ops.lowerings import windows as windows_form


class Case(NamedTuple):
  """A convolution of x [2, *size, features[0] * groups] with a kernel [*kernel, *features]."""

  size: tuple[int, int]
  kernel: tuple[int, int]
  strides: tuple[int, int]
  padding: str | tuple[tuple[int, int], tuple[int, int]]
  features: tuple[int, int]
  groups: int = 1


CASES = {
  "same": Case((6, 6), (3, 3), (1, 1), "SAME", (5, 4)),
  "same at stride 2, even": Case((6, 8), (3, 3), (2, 2), "SAME", (5, 4)),
  "same at stride 2, odd": Case((7, 5), (3, 3), (2, 2), "SAME", (5, 4)),
  "unequal strides": Case((7, 6), (3, 2), (2, 3), "SAME", (5, 3)),
  "stride above the kernel": Case((7, 8), (1, 2), (3, 3), "VALID", (5, 2)),
  "shortcut": Case((7, 6), (1, 1), (2, 2), "VALID", (6, 3)),
  "valid with a remainder": Case((8, 9), (3, 3), (3, 2), "VALID", (5, 2)),
  "imagenet's stem": Case((12, 11), (7, 7), (2, 2), ((3, 3), (3, 3)), (3, 4)),
  "few channels": Case((5, 5), (3, 3), (1, 1), "VALID", (1, 3)),
  "few channels at stride": Case((6, 5), (5, 4), (2, 3), ((0, 3), (2, 1)), (4, 1)),
  "pads beyond the kernel": Case((3, 4), (2, 1), (1, 2), ((3, 0), (2, 3)), (5, 2)),
  "one position": Case((3, 3), (3, 3), (2, 2), "VALID", (6, 6)),
  "kernel above the image": Case((2, 1), (5, 5), (1, 1), "SAME", (5, 2)),
  "cropped below the kernel": Case((1, 7), (2, 4), (1, 2), ((1, 2), (-1, 0)), (4, 5)),
  "16 channels, which are folded": Case((4, 7), (3, 3), (1, 1), "SAME", (16, 16)),
  "17 channels, which are not folded": Case((4, 5), (3, 3), (2, 2), "SAME", (17, 5)),
  "two groups": Case((5, 6), (3, 3), (2, 2), "SAME", (3, 4), 2),
  "one group per channel": Case((4, 5), (3, 3), (1, 1), "SAME", (1, 6), 3),
}
# How the arguments are mapped over their first axis.
SINGLE, BOTH, IMAGES, SCAN = "single", "vmap", "vmap over images", "scan"
LOWERINGS = ("canonical", "xla")


def gradients(lowering, case, x, kernel, dy):
  """Returns (y, dx, dkernel)."""
  y, pullback = jax.vjp(
    lambda x, kernel: conv(x, kernel, case.strides, case.padding, case.groups, lowering), x, kernel
  )
  return y, *pullback(dy)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def mapped(lowering, how, case, x, kernel, dy):
  one = functools.partial(gradients, lowering, case)
  match how:
    case "single":
      return jax.tree.map(lambda a: a[None], one(x[0], kernel[0], dy[0]))
    case "vmap":
      return jax.vmap(one)(x, kernel, dy)
    case "vmap over images":
      return jax.vmap(one, (0, None, 0))(x, kernel[0], dy)
    case _:
      return jax.lax.scan(lambda carry, args: (carry, one(*args)), None, (x, kernel, dy))[1]


def pads_of(case: Case):
  """Returns the padding as explicit pads."""
  if case.padding == "VALID":
    return (0, 0), (0, 0)
  if case.padding != "SAME":
    return case.padding
  total = [
    max((-(-size // stride) - 1) * stride + kernel - size, 0)
    for size, kernel, stride in zip(case.size, case.kernel, case.strides, strict=True)
  ]
  return tuple((pad // 2, pad - pad // 2) for pad in total)


def torch_gradients(case: Case, x, kernel, dy):
  """Returns (y, dx, dkernel) by torch."""
  x = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
  kernel = torch.tensor(kernel.transpose(3, 2, 0, 1).copy(), requires_grad=True)
  (top, bottom), (left, right) = pads_of(case)
  y = F.conv2d(F.pad(x, (left, right, top, bottom)), kernel, None, case.strides, 0, 1, case.groups)
  y.backward(torch.tensor(dy.transpose(0, 3, 1, 2).copy()))
  images = (a.detach().permute(0, 2, 3, 1).numpy() for a in (y, x.grad))
  return *images, kernel.grad.permute(2, 3, 1, 0).numpy()


def arguments(case: Case):
  """Returns two of each of (x, kernel, dy)."""
  rng = np.random.default_rng(0)
  channels = case.features[0] * case.groups
  x = rng.standard_normal((2, 2, *case.size, channels)).astype(np.float32)
  kernel = rng.standard_normal((2, *case.kernel, *case.features)).astype(np.float32)
  out = [
    (size + sum(pad) - taps) // stride + 1
    for size, pad, taps, stride in zip(
      case.size, pads_of(case), case.kernel, case.strides, strict=True
    )
  ]
  return x, kernel, rng.standard_normal((2, 2, *out, case.features[1])).astype(np.float32)


def assert_same(actual, expected):
  for ours, theirs in zip(actual, expected, strict=True):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5 * (1 + np.abs(theirs).max()))


def check(case: Case, how: str, lowering: str | None = "canonical"):
  """Compares a lowering, or None for the table's, with torch for each client."""
  x, kernel, dy = arguments(case)
  result = mapped(lowering, how, case, x, kernel, dy)
  clients = 1 if how == SINGLE else 2
  assert all(len(a) == clients for a in result)
  for i in range(clients):
    client_kernel = kernel[0 if how == IMAGES else i]
    assert_same([a[i] for a in result], torch_gradients(case, x[i], client_kernel, dy[i]))


@pytest.mark.parametrize("name", CASES)
def test_special_cases_are_the_same_in_both_lowerings(name):
  case = CASES[name]
  check(case, SINGLE)
  ours, xlas = (mapped(lowering, SINGLE, case, *arguments(case)) for lowering in LOWERINGS)
  assert_same(ours, xlas)


@pytest.mark.parametrize("name", ["same at stride 2, odd", "few channels at stride", "shortcut"])
@pytest.mark.parametrize("how", [BOTH, IMAGES, SCAN])
def test_maps_are_the_same_in_both_lowerings(name, how):
  case = CASES[name]
  check(case, how)
  ours, xlas = (mapped(lowering, how, case, *arguments(case)) for lowering in LOWERINGS)
  assert_same(ours, xlas)


@pytest.mark.parametrize(
  ("case", "windows", "products"),
  [  # the number of blocks that fit if a block has so many windows
    (Case((7, 5), (3, 3), (1, 1), "SAME", (5, 4)), 35, 2),  # an image
    (Case((12, 5), (3, 2), (2, 1), "SAME", (5, 4)), 10, 6),  # two rows out of six
    (Case((9, 6), (2, 2), (2, 3), "VALID", (5, 3)), 1, 8),  # rows of x that no window reaches
  ],
)
def test_the_kernel_gradient_is_summed_over_blocks_of_windows(case, windows, products, monkeypatch):
  x, kernel, dy = arguments(case)
  monkeypatch.setattr(windows_form, "_CACHED", windows * kernel[0, ..., 0].nbytes)
  check(case, SINGLE, "windows")

  geometry = Geometry(case.size, case.kernel, case.strides, pads_of(case))
  gradient = functools.partial(windows_form.kernel_gradient, geometry)
  assert f"length={products}\n" in str(jax.make_jaxpr(gradient)(x[0], dy[0]))
  half = gradient(x[0].astype(jnp.bfloat16), dy[0].astype(jnp.bfloat16))
  exact = torch_gradients(case, x[0], kernel[0], dy[0])[2]
  assert half.dtype == jnp.bfloat16  # the sum is float32
  np.testing.assert_allclose(half.astype(np.float32), exact, rtol=0.02, atol=0.02 * exact.max())


@pytest.mark.parametrize(
  ("size", "padding"),
  [
    ((6, 8), "SAME"),
    ((5, 4), "VALID"),
    ((3, 3), "VALID"),  # less than a tile
    ((6, 5), ((2, 0), (-1, 3))),
  ],
)
def test_tiles_in_one_or_several_blocks_equal_torch(size, padding, monkeypatch):
  case = Case(size, (3, 3), (1, 1), padding, (5, 4))
  check(case, BOTH, "winograd")
  monkeypatch.setattr(winograd, "_CACHED", 0)  # a block for an image of 3x3
  check(case, SCAN, "winograd")
  x, kernel, dy = (a[0].astype(jnp.bfloat16) for a in arguments(case))
  half = gradients("winograd", case, x, kernel, dy)
  assert {a.dtype for a in half} == {jnp.dtype(jnp.bfloat16)}  # the sums are float32
  exact = torch_gradients(case, *(np.asarray(a, np.float32) for a in (x, kernel, dy)))
  for ours, theirs in zip(half, exact, strict=True):
    np.testing.assert_allclose(
      ours.astype(np.float32), theirs, rtol=0.02, atol=0.01 * np.abs(theirs).max()
    )


@st.composite
def cases(draw):
  def pair(values):
    return st.tuples(values, values)

  kernel = draw(pair(st.integers(1, 5)))
  pads = pair(pair(st.integers(0, 3)))
  padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), pads))
  size = []
  for axis in range(2):
    least = 1
    if padding != "SAME":
      around = 0 if padding == "VALID" else sum(padding[axis])
      least = max(1, kernel[axis] - around)
    size.append(draw(st.integers(least, least + 6)))
  strides, groups = draw(pair(st.integers(1, 3))), draw(st.integers(1, 2))
  features = draw(st.integers(1, 18)), draw(st.integers(1, 9)) * groups
  return Case(tuple(size), kernel, strides, padding, features, groups)


@settings(max_examples=12, derandomize=True)
@given(cases(), st.sampled_from([SINGLE, BOTH, IMAGES, SCAN]), st.sampled_from([None, *FORMS]))
def test_random_convolutions_equal_torch(case, how, lowering):
  check(case, how, lowering)


def test_second_derivatives_are_those_of_xlas_convolution():
  case = CASES["same at stride 2, odd"]
  x, kernel, dy = (a[0] for a in arguments(case))

  def derivatives(lowering):
    def squares(*args):
      return sum((a**2).sum() for a in gradients(lowering, case, *args))

    return jax.jit(jax.grad(squares, (0, 1, 2)))(x, kernel, dy)

  assert_same(derivatives("canonical"), derivatives("xla"))


@pytest.mark.parametrize("form", FORMS)
def test_without_images_the_gradient_of_the_kernel_is_zero(form):
  images, dy = np.zeros((0, 4, 4, 8), np.float32), np.zeros((0, 4, 4, 3), np.float32)
  gradient = FORMS[form].kernel_gradient(Geometry((4, 4), (1, 1)), images, dy)
  np.testing.assert_array_equal(gradient, np.zeros((1, 1, 8, 3)))


def test_the_canonical_lowering_has_no_grouped_or_dilated_convolution_under_vmap():
  case = CASES["same at stride 2, odd"]
  args = arguments(case)
  text = {
    lowering: str(jax.make_jaxpr(functools.partial(mapped, lowering, BOTH, case))(*args))
    for lowering in LOWERINGS
  }
  ours = text["canonical"]
  count = ours.count("conv_general_dilated[")
  assert count >= 6  # the output, four phases of the input gradient, the kernel gradient
  for parameter in ("feature_group_count=1\n", "batch_group_count=1\n", "lhs_dilation=(1, 1)\n"):
    assert ours.count(parameter) == count
  assert "feature_group_count=2" in text["xla"]


def test_the_three_convolutions_are_not_inlined():
  # If inlined, their reads would be fused with the neighbouring layers, which is slow on a CPU.
  case = CASES["same"]
  args = arguments(case)
  text = mapped.lower("canonical", SCAN, case, *args).compile().as_text()
  calls = [line for line in text.splitlines() if " call(" in line and 'inlineable="false"' in line]
  assert len(calls) == 3
  for name in ("forward", "input_gradient", "kernel_gradient"):
    assert any(name in line for line in calls)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_kernels_that_do_not_fit_are_rejected(lowering):
  x, kernel = np.zeros((1, 3, 3, 6), np.float32), np.zeros((3, 3, 2, 4), np.float32)
  for groups in (1, 2, 3):  # 3 divides the input channels, but not the output channels
    with pytest.raises(ValueError, match="do not fit 6 channels"):
      conv(x, kernel, groups=groups, lowering=lowering)
  with pytest.raises(ValueError, match=r"\(3, 3\) does not fit images of size \(3, 2\)"):
    conv(x[:, :, :2], kernel[..., :3], padding="VALID", groups=3, lowering=lowering)


def test_a_kernel_larger_than_the_image_is_lowered_to_matrix_products():
  """XLA would swap the image and the kernel, and take 100 times as long."""

  def primitives(size):
    x, kernel = jnp.ones((2, size, size, 8)), jnp.ones((3, 3, 8, 4))
    geometry = Geometry((size, size), (3, 3), (1, 1), ((1, 1), (1, 1)))
    forward = functools.partial(canonical.forward, geometry)
    return {eqn.primitive.name for eqn in jax.make_jaxpr(forward)(x, kernel).eqns}

  assert "conv_general_dilated" not in primitives(2)
  assert "dot_general" in primitives(2)
  assert "dot_general" not in primitives(8)
