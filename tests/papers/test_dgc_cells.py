"""DGC clips gradients in every cell of the papers, and wherever a preset shows how to run it."""

import re

import pytest
from helpers.binaries import ROOT
from helpers.paper_tables import CELLS, resolve

from fedjax_norm.papers.paper_004_settings import DGC_CLIP_NORM


@pytest.mark.parametrize("scale", ["smoke", "small", "full"])
def test_every_dgc_cell_clips_gradients_and_no_other_cell_of_paper_004_does(scale):
  configs = [
    resolve(cell, scale) for name, cell in CELLS.items() if name.startswith("decentralized")
  ]
  norms = {True: [], False: []}
  for config in configs:
    norms[getattr(config, "algorithm", None) == "dgc"].append(config.clip_norm)
  assert len(norms[True]) >= 40
  assert set(norms[True]) == {DGC_CLIP_NORM}
  assert set(norms[False]) == {0.0}


def test_every_dgc_command_in_a_preset_clips_gradients():
  texts = [path.read_text() for path in (ROOT / "fedjax_norm/presets").glob("*.flags")]
  commands = [c for text in texts for c in re.findall(r"--algorithm=dgc[^;.]*", text)]
  assert len(commands) == 6
  assert all(f"--clip_norm={DGC_CLIP_NORM:g}" in command for command in commands)
