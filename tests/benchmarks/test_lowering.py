"""The benchmark of the convolutions' forms, on a CPU and as on an accelerator."""

import csv

import numpy as np
import pytest

from benchmarks import lowering
from benchmarks.convolutions import Shape, shapes
from benchmarks.forms import OTHERS
from fedjax_norm.ops.geometry import Geometry
from fedjax_norm.ops.lowerings import ON_CPU, xla

SMALL = Shape(Geometry((4, 4), (3, 3), (1, 1), ((1, 1), (1, 1))), 2, 3)
UNEVEN = Shape(Geometry((5, 6), (3, 2), (1, 2), ((0, 1), (1, 2))), 2, 3)


def test_the_convolutions_of_a_model_and_of_small_networks():
  titles = [shape.title() for shape in shapes(["niid", "tiny"])]
  assert titles == [
    "32x32, 3 to 6, 5x5 VALID",
    "14x14, 6 to 16, 5x5 VALID",
    "8x8, 1 to 32, 3x3 SAME",
    "8x8, 32 to 64, 3x3 SAME, stride 2x2",
    "4x4, 64 to 64, 3x3 SAME",
    "32x32, 3 to 64, 5x5 SAME",
    "28x28, 1 to 32, 5x5 SAME",
    "28x28, 1 to 6, 5x5 SAME",
  ]


@pytest.mark.parametrize("form", OTHERS)
def test_the_forms_that_the_library_leaves_out_equal_xlas_convolution(form):
  geometry, arguments = UNEVEN.geometry, (2, 0, "float32")
  for part in ("forward", "input_gradient", "kernel_gradient"):
    first, second = lowering.arrays(UNEVEN, part, *arguments)
    actual = getattr(OTHERS[form], part)(geometry, first, second)
    expected = getattr(xla, part)(geometry, first, second)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
  ("platform", "dtypes", "columns"), [("cpu", 1, len(ON_CPU) + 1 + len(OTHERS)), ("gpu", 2, 4)]
)
def test_every_form_of_every_part_is_timed(platform, dtypes, columns, tmp_path, monkeypatch):
  monkeypatch.setattr(lowering, "shapes", lambda names: [SMALL])
  monkeypatch.setattr(lowering, "_SECONDS", 0.0)
  options = lowering.Options(output=str(tmp_path), platform=platform, clients=2, batches=(2,))
  lowering.main(options)
  rows = list(csv.DictReader((tmp_path / "lowering.csv").read_text().splitlines()))
  assert len(rows) == dtypes * 3 * columns
  assert sum(row["chosen"] == "True" for row in rows) == dtypes * 3
  assert all(float(row["ms"]) > 0 for row in rows)
  table = (tmp_path / "lowering.md").read_text()
  assert table.count("4x4, 2 to 3, 3x3 SAME, 2 images, float32 | ") == 4
  assert "nan" not in table
