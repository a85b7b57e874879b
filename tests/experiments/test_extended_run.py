"""A run that is continued with more rounds equals one that was started with them."""

from pathlib import Path

import pytest
from helpers import fake_wandb
from helpers.run_bits import parameters, read

from fedjax_norm.training.storage.run_folder import read_config


@pytest.mark.usefixtures("one_convolution")
@pytest.mark.long
def test_more_rounds_give_the_bits_of_a_longer_run(fedavg_run, monkeypatch):
  wandb = fake_wandb.install(monkeypatch)
  seeds = ("--seeds=2", "--norm=gn", "--lr_schedule=step", "--lr_boundaries=3")
  assert fedavg_run(*seeds, "--rounds=4", "--workdir=extended", "--wandb").code == 0
  result = fedavg_run(*seeds, "--rounds=6", "--workdir=extended", "--wandb")
  assert result.code == 0, result.err
  assert result.out.count("has reached round 4 and resumes from its last checkpoint") == 2
  assert fedavg_run(*seeds, "--rounds=6", "--workdir=whole").code == 0
  assert [run["name"] for run in wandb.started] == ["extended/seed_0", "extended/seed_1"] * 2
  for seed, sent in zip(("seed_0", "seed_1"), wandb.runs.values(), strict=True):
    extended, whole = Path("extended", seed), Path("whole", seed)
    assert read(extended) == read(whole)
    assert parameters(extended) == parameters(whole)
    assert (extended / "model.msgpack").read_bytes() == (whole / "model.msgpack").read_bytes()
    assert read_config(extended) == read_config(whole)
    assert [step for step in sent if isinstance(step, int)] == [2, 4, 6]
    assert sent["top1"] == sent[6]["top1"] == float(read(whole)[-1]["top1"])
  fewer = fedavg_run(*seeds, "--rounds=4", "--workdir=extended")
  assert fewer.code == 2
  assert "6 rounds are already done; pass as many rounds as before" in fewer.err
