"""What the README says is so."""

import dataclasses
import re
from pathlib import Path

import pytest
from absl import flags

from experiments import asgd, decentralized, fedavg, split, ssgd
from experiments.algorithm_flags import AsgdFlags, FedAvgFlags, SsgdFlags
from experiments.decentralized_flags import ALGORITHMS, DecentralizedFlags
from experiments.flags import define, parse
from experiments.split_flags import SplitFlags
from fedjax_norm import norm
from fedjax_norm.data.partition import OPTIONS
from fedjax_norm.models import MODELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BINARIES = {
  "fedavg": (FedAvgFlags, fedavg.prepare),
  "ssgd": (SsgdFlags, ssgd.prepare),
  "asgd": (AsgdFlags, asgd.prepare),
  "decentralized": (DecentralizedFlags, decentralized.prepare),
  "split": (SplitFlags, split.prepare),
}
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
  rows = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
  assert rows == {*norm.NAMES, *ALGORITHMS}
  for name in (*OPTIONS, *MODELS):
    assert f"`{name}`" in README or f"={name}`" in README


def parsed(preset):
  """The config of a preset, of the binary that its name begins with (FedAvg's if none)."""
  name = preset.stem.split("_")[0]
  kind, prepare = BINARIES.get(name, BINARIES["fedavg"])
  values = flags.FlagValues()
  define(kind, values)
  values([name, f"--flagfile={preset}"])
  return parse(kind, values), prepare


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_a_run(preset):
  """Every preset parses, fits together, is a whole experiment and stands in the runbook."""
  config, prepare = parsed(preset)
  prepare(config.in_rounds(config.clients, 50_000))
  assert preset.name in (ROOT / "BUILD.md").read_text()


def test_the_default_preset_is_the_default():
  given, prepare = parsed(ROOT / "experiments/presets/digits_one_class.flags")
  default = FedAvgFlags()
  assert prepare(given).keywords["config"] == prepare(default).keywords["config"]
  # The others follow from the data and from these where they are not given.
  follow = {"clients": 10, "partition": "classes", "classes_per_client": 1, "local_steps": 1}
  assert given == dataclasses.replace(default, **follow, client_momentum="local")
