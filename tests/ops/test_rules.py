"""The form that the table names for a part of a convolution."""

import pytest

from fedjax_norm.ops.geometry import Geometry
from fedjax_norm.ops.rules import choose


@pytest.mark.parametrize(
  ("part", "form", "shape"),
  [  # the figures in rules.py: image, kernel, channels, images
    ("kernel_gradient", "windows", (32, 5, 3, 6, 64)),
    ("kernel_gradient", "canonical", (28, 5, 1, 6, 64)),
    ("kernel_gradient", "canonical", (32, 3, 3, 32, 64)),
    ("kernel_gradient", "windows", (32, 3, 3, 64, 64)),
    ("kernel_gradient", "windows", (32, 3, 64, 64, 32)),
    ("kernel_gradient", "canonical", (32, 3, 64, 64, 10)),
    ("kernel_gradient", "windows", (16, 1, 64, 192, 32)),
    ("kernel_gradient", "winograd", (8, 3, 256, 256, 32)),
    ("kernel_gradient", "winograd", (16, 3, 96, 128, 32)),
    ("input_gradient", "patches", (14, 5, 6, 16, 64)),
    ("input_gradient", "canonical", (32, 5, 3, 6, 64)),
    ("input_gradient", "winograd", (32, 3, 64, 64, 32)),
    ("input_gradient", "canonical", (28, 3, 64, 192, 32)),
    ("input_gradient", "patches", (8, 3, 48, 64, 32)),
    ("input_gradient", "patches", (16, 3, 32, 64, 32, 2)),
    ("kernel_gradient", "canonical", (16, 3, 32, 64, 32, 2)),
    ("kernel_gradient", "patches", (8, 3, 256, 512, 32, 2)),
    ("forward", "canonical", (32, 5, 3, 6, 64)),
    ("forward", "canonical", (8, 3, 256, 512, 32, 2)),
    ("forward", "winograd", (28, 3, 64, 192, 32)),
    ("forward", "winograd", (4, 3, 512, 512, 10)),
    ("forward", "canonical", (4, 3, 512, 512, 9)),
    ("forward", "canonical", (16, 3, 128, 32, 32)),
    ("forward", "patches", (8, 1, 256, 512, 32, 2)),
  ],
)
def test_the_form_on_a_cpu(part, form, shape):
  size, taps, inputs, outputs, batch, *stride = shape
  strides = (*stride, *stride) or (1, 1)
  geometry = Geometry((size, size), (taps, taps), strides, ((taps // 2,) * 2,) * 2)
  assert choose(part, "cpu", "float32", geometry, batch, inputs, outputs, False) == form
