"""The README agrees with the code."""

import re
from pathlib import Path

from fedjax_norm import norm
from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.cli import methods
from fedjax_norm.data.partitions.registry import OPTIONS
from fedjax_norm.models import MODELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


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
