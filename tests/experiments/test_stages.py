"""``experiments.stages``, which lists the cuts of a model."""

import pytest

from fedjax_norm import models, norm
from fedjax_norm.cli.app import guard
from fedjax_norm.cli.commands.stages import StagesFlags, run
from fedjax_norm.models.flops import step_flops

SMALL = StagesFlags(image_size=6, channels=1, classes=4)


def test_the_table_shows_both_sides_of_every_cut(capsys):
  run(StagesFlags(**{**vars(SMALL), "cut": "conv2"}))
  rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
  # GN has 2 parameters per channel, and convolutions before it have no bias.
  parameters = (9 * 32 + 64, 9 * 32 * 64 + 128, 9 * 64 * 64 + 128, 64 * 4 + 4)
  cells = {row[0]: row[1:] for row in rows}
  assert cells["conv1"][:4] == ["6x6x32", "4.61", "kB", f"{parameters[0]:,}"]
  assert cells["head"] == ["4", "16", "B", "260", "-", "-", "-", "-"]
  sides = [f"{sum(side):,}" for side in (parameters[:2], parameters[2:])]
  assert cells["conv2"][4:6] == sides
  assert [row[0] for row in rows if "<--" in row] == ["conv2"]

  model = models.create("tiny", norm.create("gn", groups=8), 4, (6, 6, 1))
  before = step_flops(model, (6, 6, 1), 0, 2, 32, input_gradient=False).training / 32
  after = step_flops(model, (6, 6, 1), 2, None, 32).training / 32
  assert [float(value) for value in cells["conv2"][6:8]] == pytest.approx([before, after], rel=5e-3)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"cut": "conv9"}, "unknown stage 'conv9'; the model can be cut after conv1, conv2, conv3"),
    ({"cut": "head"}, "'head' is the last"),
    ({"image_size": 0}, "--image_size is 0; it must be at least 1"),
    ({"classes": 1}, "--classes is 1; it must be at least 2"),
    ({"image_size": 2}, "at least 3x3 pixels"),
    ({"stem": "cifar"}, "drop the stem"),
    ({"norm": "fixup"}, "residual"),
  ],
)
def test_bad_input_is_one_sentence(capsys, fields, message):
  assert guard(lambda: run(StagesFlags(**{**vars(SMALL), **fields}))) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1
