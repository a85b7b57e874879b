"""What the README says is so."""

import re
from pathlib import Path

import pytest
from absl import flags

from experiments import build
from experiments.flags import Config, define, parse
from fedjax_norm import norm
from fedjax_norm.data.partition import OPTIONS
from fedjax_norm.models import MODELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PRESETS = sorted((ROOT / "experiments" / "presets").glob("*.flags"))


def test_the_library_example_runs(capsys):
  code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
  assert code
  text = code[1].replace("rounds=600, eval_every=50", "rounds=4, eval_every=2")
  assert len(text.splitlines()) <= 16
  names: dict = {}
  exec(text, names)
  assert names["outcome"].frozen_at == 2
  assert re.findall(r"^(\d+) (\w+) ", capsys.readouterr().out, re.MULTILINE) == [
    ("2", "explore"),
    ("4", "calibrate"),
  ]


def test_the_tables_are_complete():
  assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == set(norm.NAMES)
  for name in (*OPTIONS, *MODELS):
    assert f"`{name}`" in README or f"={name}`" in README


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_a_run(preset):
  """Every preset parses, fits together, is a whole experiment and stands in the runbook."""
  values = flags.FlagValues()
  define(Config, values)
  values(["fedavg", f"--flagfile={preset}"])
  config = parse(Config, values)
  build.make_algorithm(config)
  build.make_schedule(config)
  build.make_freeze(config)
  build.make_loop(config, 0)
  assert preset.name in (ROOT / "BUILD.md").read_text()


def test_the_default_preset_is_the_default():
  values = flags.FlagValues()
  define(Config, values)
  values(["fedavg", f"--flagfile={ROOT / 'experiments/presets/digits_one_class.flags'}"])
  given, default = parse(Config, values), Config()
  assert build.make_algorithm(given) == build.make_algorithm(default)
  assert build.make_schedule(given) == build.make_schedule(default)
  assert build.make_loop(given, 0) == build.make_loop(default, 0)
