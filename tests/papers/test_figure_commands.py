"""The commands in docs/presets.md for the figures of paper 004 have flags that fit together."""

import re

import pytest
from absl import flags
from helpers.binaries import ROOT

from fedjax_norm.cli import methods, presets, train
from fedjax_norm.cli.flags import define, parse

ROWS = re.findall(
  r"^\| (\d+) \| (`--preset.*?) \| (`.*?) \|$", (ROOT / "docs" / "presets.md").read_text(), re.M
)
SETTINGS = {  # figure -> model, algorithms in the order of the table, clients
  "4": ("lenet", ["bsp"], 2),
  "16": ("alexnet", ["bsp", "gaia", "fedavg", "dgc"], 5),
  "17": ("resnet20", ["bsp", "gaia", "fedavg", "dgc"], 5),
  "21": ("googlenet", ["gaia"], 2),
  "22": ("resnet20", ["dgc"], 5),
  "23": ("alexnet", ["fedavg"], 5),
  "24": ("googlenet", ["gaia"] * 4, 5),
}


@pytest.mark.parametrize(("figure", "commands", "file"), ROWS, ids=[row[0] for row in ROWS])
def test_the_flags_of_a_figure_fit_together(figure, commands, file):
  first, *others = re.findall(r"`(.*?)`", commands)
  configs = []
  for more in ("", *others):
    for partition in ("iid", "skew"):
      words = f"{first} {more} --partition={partition} --data_dir=DIR".split()
      words = presets.expand(words, methods.DECENTRALIZED, "decentralized")
      kind, values = methods.DECENTRALIZED.config_for(words), flags.FlagValues()
      define(kind, values)
      values(["decentralized", *words])
      configs.append(parse(kind, values))
      train.check(configs[-1])
  model, algorithms, clients = SETTINGS[figure]
  assert [one.algorithm for one in configs[::2]] == algorithms
  assert {(one.model, one.clients) for one in configs} == {(model, clients)}
  quantity = re.findall(r"`(\w+)`", file)[0]
  assert all(one.diagnostics for one in configs) == (quantity not in ("top1", "accuracy_loss"))
  if quantity == "accuracy_loss":
    assert [one.threshold for one in configs[::2]] == [0.02, 0.05, 0.1, 0.2]


def test_every_figure_has_commands():
  assert [row[0] for row in ROWS] == list(SETTINGS)
