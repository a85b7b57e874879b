"""VGG-16 against torch with the same weights, and published parameter counts."""

import jax
import pytest
import torch.nn.functional as F
from helpers.torch_units import (
  assert_close,
  channels_first,
  count,
  dense,
  flat,
  images,
  randomized,
  shapes,
)
from helpers.torch_units import unit as torch_unit

from fedjax_norm import models
from fedjax_norm.models.vgg import VGG16
from fedjax_norm.norm import Mode, create

NONE, BN = create("none"), create("bn")


def torch_vgg(variables, x):
  params, x = variables["params"], channels_first(x)
  for layer in (64, 64, "M", 128, 128, "M", *((256,) * 3), "M", *((512,) * 3), "M", *((512,) * 3)):
    if layer == "M":
      x = F.max_pool2d(x, 2, ceil_mode=True)
      continue
    name = next(name for name in sorted(params) if name.startswith("conv"))
    x, params = torch_unit(x, params[name]), {k: v for k, v in params.items() if k != name}
    assert x.shape[1] == layer
  x = F.relu(dense(flat(F.max_pool2d(x, 2, ceil_mode=True)), params["Dense_0"]))
  return dense(x, params["Dense_1"])


def test_vgg_equals_torch():
  model, size = VGG16(NONE, 5), (18, 9, 2)
  variables, x = randomized(shapes(model, size)), images(2, *size)
  mode = Mode(train=True, dropout=False, count_flops=True)  # XLA's lowering compiles faster
  logits = jax.jit(lambda v, x: model.apply(v, x, mode))(variables, x)
  assert_close(logits, torch_vgg(variables, x))


@pytest.mark.parametrize(
  ("norm", "classes", "size", "expected"),
  [
    (NONE, 1000, 224, 138_357_544),  # torchvision's count; 138 million in the paper
    (BN, 1000, 224, 138_365_992 - 4224),  # without the redundant biases of torchvision's vgg16_bn
    (NONE, 10, 32, 14_982_474),
  ],
)
def test_parameter_counts(norm, classes, size, expected):
  shape = (size, size, 3)
  assert count(models.create("vgg16", norm, classes, shape), shape) == expected
