"""What the README says is so."""

import dataclasses
import re
from pathlib import Path

import pytest
from absl import flags

from fedjax_norm import norm
from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.cli import methods, train
from fedjax_norm.cli.choice import Choice
from fedjax_norm.cli.flags import define, parse
from fedjax_norm.data.partitions.registry import OPTIONS
from fedjax_norm.models import MODELS
from fedjax_norm.papers.tables import BINARIES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PRESETS = sorted((ROOT / "fedjax_norm" / "presets").glob("*.flags"))


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
  rows = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
  assert rows == {*norm.NAMES, *methods.DECENTRALIZED.configs, *METHODS}
  for name, method in METHODS.items():
    assert f"\n| `{name}` | {method.help} |\n" in README
  for name in (*OPTIONS, *MODELS):
    assert f"`{name}`" in README or f"={name}`" in README


def parsed(preset):
  """The config of a preset, of the binary that its name begins with (FedAvg's if none)."""
  arguments = [f"--flagfile={preset}"]
  binary = BINARIES.get(preset.stem.split("_")[0], methods.FEDAVG_CONFIG)
  kind = binary.config_for(arguments) if isinstance(binary, Choice) else binary
  values = flags.FlagValues()
  define(kind, values)
  values(["binary", *arguments])
  return parse(kind, values)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_a_run(preset):
  """Every preset parses, fits together, is a whole experiment and stands in the runbook."""
  config = parsed(preset)
  train.check(config.in_rounds(config.clients, 50_000))
  assert preset.name in (ROOT / "BUILD.md").read_text()


def test_the_default_preset_is_the_default():
  given = parsed(ROOT / "fedjax_norm/presets/digits_one_class.flags")
  # What follows from the data, the norm and the cohort where it is not given.
  default = dataclasses.replace(
    methods.FEDAVG_CONFIG(), clients=10, partition="classes", classes_per_client=1
  )
  default = default.fill_defaults(default.make_norm(default.rounds), all_clients=True)
  assert given.fill_defaults(given.make_norm(given.rounds), all_clients=True) == default
  assert given == dataclasses.replace(default, batch_stats=None)
