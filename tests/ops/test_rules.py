"""The form that the table names for a part of a convolution."""

import pytest

from fedjax_norm.ops.geometry import Geometry
from fedjax_norm.ops.rules import choose


@pytest.mark.parametrize(
  ("part", "form", "shape"),
  [  # the figures in rules.py: image, kernel, channels, images, stride, pad
    ("kernel_gradient", "windows", (32, 5, 3, 6, 64, 1, 0)),
    ("kernel_gradient", "windows", (28, 5, 1, 20, 32, 1, 0)),
    ("kernel_gradient", "windows", (32, 3, 3, 32, 32, 1, 0)),
    ("kernel_gradient", "canonical", (32, 3, 3, 16, 32)),
    ("kernel_gradient", "canonical", (32, 3, 16, 16, 32)),
    ("kernel_gradient", "windows", (32, 3, 16, 16, 10)),
    ("kernel_gradient", "windows", (28, 5, 1, 6, 10)),
    ("kernel_gradient", "canonical", (16, 3, 32, 32, 10)),
    ("kernel_gradient", "canonical", (32, 3, 3, 64, 64)),
    ("kernel_gradient", "canonical", (32, 5, 3, 64, 32)),
    ("kernel_gradient", "windows", (32, 3, 64, 64, 32)),
    ("kernel_gradient", "canonical", (32, 3, 64, 64, 10)),
    ("kernel_gradient", "patches", (4, 1, 256, 64, 32)),
    ("kernel_gradient", "patches", (16, 1, 128, 512, 32)),
    ("kernel_gradient", "windows", (16, 1, 512, 128, 32)),
    ("kernel_gradient", "winograd", (8, 3, 256, 256, 32)),
    ("kernel_gradient", "winograd", (16, 3, 96, 128, 32)),
    ("kernel_gradient", "canonical", (16, 3, 32, 64, 32, 2)),
    ("kernel_gradient", "windows", (16, 3, 128, 256, 32, 2)),
    ("kernel_gradient", "patches", (8, 3, 256, 512, 32, 2)),
    ("input_gradient", "patches", (14, 5, 6, 16, 64, 1, 0)),
    ("input_gradient", "patches", (12, 5, 20, 50, 64, 1, 0)),
    ("input_gradient", "canonical", (8, 5, 32, 64, 32)),
    ("input_gradient", "patches", (28, 5, 1, 32, 32)),
    ("input_gradient", "patches", (32, 5, 3, 6, 32, 1, 0)),
    ("input_gradient", "winograd", (32, 3, 64, 64, 32)),
    ("input_gradient", "winograd", (16, 3, 128, 32, 32)),
    ("input_gradient", "canonical", (30, 3, 32, 64, 32, 1, 0)),
    ("input_gradient", "canonical", (28, 3, 64, 192, 32)),
    ("input_gradient", "patches", (8, 3, 48, 64, 32)),
    ("input_gradient", "canonical", (1, 3, 192, 384, 32)),
    ("input_gradient", "patches", (16, 3, 32, 64, 32, 2)),
    ("input_gradient", "canonical", (32, 3, 64, 128, 32, 2)),
    ("forward", "canonical", (32, 5, 3, 6, 64, 1, 0)),
    ("forward", "canonical", (8, 3, 256, 512, 32, 2)),
    ("forward", "canonical", (16, 3, 128, 32, 32)),
    ("forward", "winograd", (28, 3, 64, 192, 32)),
    ("forward", "winograd", (30, 3, 32, 64, 32, 1, 0)),
    ("forward", "winograd", (4, 3, 512, 512, 8)),
    ("forward", "canonical", (4, 3, 512, 512, 7)),
    ("forward", "patches", (4, 1, 192, 16, 32)),
    ("forward", "taps", (28, 5, 1, 6, 32)),
    ("forward", "taps", (8, 3, 1, 32, 32)),
    ("forward", "canonical", (28, 5, 1, 32, 32)),
  ],
)
def test_the_form_on_a_cpu(part, form, shape):
  size, taps, inputs, outputs, batch, *rest = shape
  stride = rest[0] if rest else 1
  pad = rest[1] if len(rest) > 1 else taps // 2
  geometry = Geometry((size, size), (taps, taps), (stride, stride), ((pad, pad), (pad, pad)))
  assert choose(part, "cpu", "float32", geometry, batch, inputs, outputs, False) == form
