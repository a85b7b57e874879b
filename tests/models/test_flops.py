"""Counts of operations against counts by hand and published counts."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flops as by_hand
from fedjax_norm import models, norm
from fedjax_norm.models import flops
from fedjax_norm.models.layers import Conv
from fedjax_norm.norm import Mode
from fedjax_norm.ops import conv
from fedjax_norm.ops.conv import conv as convolve

SHAPE = (32, 32, 3)


def create(name, spec="bn", classes=10, shape=SHAPE):
  return models.create(name, norm.create(spec), classes, shape)


@pytest.mark.parametrize("name", ["tiny", "cnn", "resnet20", "resnet18"])
def test_layer_counts_equal_counts_by_hand(name):
  macs = flops.layer_macs(create(name), SHAPE)
  total, stem = by_hand.forward_macs(name, *SHAPE)
  assert (sum(macs.values()), next(iter(macs.values()))) == (total, stem)
  assert flops.training_flops(create(name), SHAPE) == 2 * (3 * total - stem)


def test_resnet50_has_the_published_count():
  # torchvision and fvcore count 4.09e9 multiply-adds at 224 pixels.
  macs = flops.layer_macs(create("resnet50", classes=1000, shape=(224, 224, 3)), (224, 224, 3))
  assert sum(macs.values()) == 4_089_184_256


@pytest.mark.parametrize("spec", ["none", "wn", "gn"])
def test_norms_are_not_counted(spec):
  fields = {"groups": 8} if spec == "gn" else {}
  model = models.create("tiny", norm.create(spec, **fields), 10, SHAPE)
  assert flops.layer_macs(model, SHAPE) == flops.layer_macs(create("tiny"), SHAPE)


def test_the_count_does_not_depend_on_the_lowering_of_convolutions(monkeypatch):
  counts = []
  for platform in ("cpu", "gpu"):
    monkeypatch.setattr(conv, "default_platform", lambda platform=platform: platform)
    counts.append(flops.layer_macs(create("resnet20"), SHAPE))
  assert counts[0] == counts[1]


def test_every_step_of_a_recurrence_is_counted():
  model = models.create("lstm", norm.create("none"), 5, (6, 4, 3))
  assert flops.layer_macs(model, (6, 4, 3)) == {
    "embedding": 6 * (4 * 3) * 64,
    "gates": 6 * 64 * 256,
    "recurrence": 6 * 64 * 256,
    "head": 64 * 5,
  }


# ------------------------------------------------------------------ by XLA's cost analysis


def inside(size: int, stride: int = 1, kernel: int = 3) -> int:
  """Returns the pairs of a window and a kernel element inside the image, with 'SAME' padding."""
  windows = -(-size // stride)
  before = max((windows - 1) * stride + kernel - size, 0) // 2
  return sum(
    0 <= stride * window + tap - before < size for window in range(windows) for tap in range(kernel)
  )


def tiny_by_hand(size: int) -> dict[str, tuple[int, int]]:
  """Returns (operations of the products in a forward pass, output elements) of each layer."""
  half = -(-size // 2)
  return {
    "conv1": (2 * inside(size) ** 2 * 1 * 32, size**2 * 32),
    "conv2": (2 * inside(size, 2) ** 2 * 32 * 64, half**2 * 64),
    "conv3": (2 * inside(half) ** 2 * 64 * 64, half**2 * 64),
    "head": (2 * 64 * 10, 10),
  }


@pytest.mark.parametrize("index", range(4))
def test_the_count_of_a_step_equals_a_count_by_hand(index):
  """The first convolution has one channel, so the CPU's lowering would fold it."""
  model = models.create("tiny", norm.create("none"), 10, (9, 9, 1))
  products, elements = list(tiny_by_hand(9).values())[index]
  step = flops.step_flops(model, (9, 9, 1), index, index + 1)
  pooled = 5 * 5 * 64 if index == 3 else 0  # sums and a division
  relu = elements if index < 3 else 0
  assert step.forward == products + elements + relu + pooled
  # The gradients of the kernel and of the input have as many products each. In addition, the
  # gradient of a ReLU compares and selects, the gradient of a bias is a sum, and the gradient of
  # the mean divides once per channel.
  rest = step.training - step.forward - 2 * products
  assert rest == (64 if index == 3 else 3 * elements - (32, 64, 64)[index])
  without = flops.step_flops(model, (9, 9, 1), index, index + 1, input_gradient=False)
  assert without.forward == step.forward
  assert step.training - without.training == products + (64 if index == 3 else 0)


def test_counts_add_over_stages_and_scale_with_examples():
  model, shape = create("tiny", shape=(8, 8, 3)), (8, 8, 3)
  whole = flops.step_flops(model, shape, batch_size=2, input_gradient=False)
  parts = [
    flops.step_flops(model, shape, *stages, 2, input_gradient=stages[0] > 0)
    for stages in ((0, 2), (2, 3), (3, None))
  ]
  assert sum(part.forward for part in parts) == pytest.approx(whole.forward, rel=1e-6)
  assert sum(part.training for part in parts) == pytest.approx(whole.training, rel=1e-6)
  four = flops.step_flops(model, shape, batch_size=4, input_gradient=False)
  assert four.training == pytest.approx(2 * whole.training, rel=1e-3)  # BN has constant terms


def test_a_count_does_not_change_the_function():
  """The trace of the count, with XLA's lowering, must not be cached for later runs."""
  layer = Conv(4, (3, 3), norm.create("none"))
  x = jax.ShapeDtypeStruct((1, 5, 5, 2), jnp.float32)
  variables = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, Mode()), x)

  def run(variables, x):
    return layer.apply(variables, x, Mode())

  def xla_lowering(variables, x):
    kernel, bias = (variables["params"][key] for key in ("kernel", "bias"))
    return convolve(x, kernel, lowering="xla") + bias

  assert flops.program_flops(run, variables, x) == flops.program_flops(xla_lowering, variables, x)
  assert "custom_vjp" in str(jax.make_jaxpr(run)(variables, x))
