"""``experiments.decentralized`` as a user runs it, with good and with bad input."""

import csv
from pathlib import Path

import numpy as np
import pytest

from experiments.build_decentralized import make_decentralized_config, make_dial
from experiments.decentralized_flags import DecentralizedFlags
from fedjax_norm.algorithms.gaia import GaiaConfig
from fedjax_norm.control.skewscout import GRIDS


def rows(folder: str) -> list[dict[str, str]]:
  with open(Path(folder) / "metrics.csv", newline="") as file:
    return list(csv.DictReader(file))


def test_skewscout_by_epochs(decentralized_run):
  """Two epochs of two rounds; the rate falls after the first, and Gaia's threshold with it."""
  result = decentralized_run(
    "--algorithm=gaia",
    "--norm=bn",
    "--epochs=2",
    "--lr_schedule=step",
    "--lr_boundaries=1",
    "--skewscout=hill",
    "--scout_every=1",
    "--scout_examples=8",
    "--scout_grid=0.1,0.2",
    "--scout_start=0.2",
    "--workdir=run",
    "--network=wan",
  )
  assert result.code == 0, result.err
  assert "SkewScout's (hill), of 0.1, 0.2; a look every 1" in result.out
  assert "accuracy loss" in result.out
  assert "theta at the end" in result.out
  assert "own models, top-1" in result.out
  written = rows("run")
  assert [row["round"] for row in written] == ["1", "2", "3", "4"]
  assert float(written[0]["theta"]) == pytest.approx(0.2)
  assert float(written[2]["theta"]) in (pytest.approx(0.01), pytest.approx(0.02))
  assert [float(row["rate"]) for row in written] == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_defaults():
  config = DecentralizedFlags(algorithm="gaia", norm="bn").in_rounds(10, 1000)
  assert make_decentralized_config(config).batch_stats == "local"
  assert make_decentralized_config(
    DecentralizedFlags(algorithm="gaia", norm="fixbn")
  ) == GaiaConfig(make_decentralized_config(config).local, "mean")
  dial = make_dial(config)
  assert dial.follows_rate
  assert dial.scout is None
  np.testing.assert_allclose(dial.values, np.full(600, 0.1, np.float32))
  assert make_dial(DecentralizedFlags()) is None
  bsp = make_decentralized_config(DecentralizedFlags())
  assert (bsp.reduction, bsp.weighting) == ("sum", "uniform")
  assert make_decentralized_config(DecentralizedFlags(norm="sync_bn")).weighting == "examples"


def test_warm_up_and_boundaries_in_epochs():
  """500 mini-batches an epoch: E_warm = 2 makes stages of 1,000."""
  flags = DecentralizedFlags(
    algorithm="dgc",
    batch_size=20,
    epochs=12,
    sparsity_warmup_epochs=2,
    lr_schedule="step",
    lr_boundaries=(6, 9),
  )
  config = flags.in_rounds(5, 50_000)
  assert (config.rounds, config.lr_boundaries) == (6000, (3000, 4500))
  assert config.in_rounds(5, 50_000) == config
  values = make_dial(config).values
  np.testing.assert_allclose(
    values[::1000], [0.75, 0.9375, 0.984375, 0.996, 0.999, 0.999], rtol=1e-6
  )


def test_the_grids_are_the_papers():
  for name, grid in GRIDS.items():
    config = DecentralizedFlags(algorithm=name, skewscout="hill", rounds=500)
    scout = make_dial(config).scout
    assert (scout.grid, scout.every, scout.start) == (grid, 500, 0)
    assert (scout.lambda_al, scout.lambda_c, scout.sigma_al) == (50, 1, 0.05)
    assert scout.whole == (name == "fedavg")
    assert scout.per_density == (name == "dgc")


@pytest.mark.parametrize(
  ("flags", "told"),
  [
    ("--threshold=0.1", "belongs to --algorithm=gaia"),
    ("--algorithm=gaia --reduction=mean", "belongs to --algorithm=bsp"),
    ("--algorithm=gaia --sparsity=0.9", "belongs to --algorithm=dgc"),
    ("--algorithm=gaia --threshold=-1", "at least 0"),
    ("--algorithm=fedavg --local_steps=0", "at least 1"),
    ("--algorithm=fedavg --momentum=0 --client_momentum=reset", "--momentum above 0"),
    ("--algorithm=dgc --sparsity=1", "below 1"),
    ("--algorithm=dgc --momentum=0 --momentum_masking", "--momentum above 0"),
    ("--algorithm=dgc --sparsity_warmup_epochs=1 --sparsity_warmup_rounds=1", "not both"),
    ("--skewscout=hill", "nothing to choose"),
    ("--scout_every=2", "--skewscout"),
    ("--algorithm=gaia --skewscout=measure --scout_grid=0.1", "a search"),
    ("--algorithm=gaia --skewscout=hill --threshold=0.1", "--skewscout=off"),
    ("--algorithm=gaia --skewscout=hill --scout_temperature=1", "annealing"),
    ("--algorithm=gaia --skewscout=hill --scout_start=0.15", "the grid"),
    ("--algorithm=gaia --skewscout=hill --scout_grid=a", "numbers"),
    ("--algorithm=fedavg --skewscout=hill --scout_grid=0.5,2", "a theta of fedavg"),
    ("--algorithm=dgc --skewscout=hill --scout_grid=0.5,2", "a theta of dgc"),
    ("--algorithm=gaia --skewscout=hill --scout_every=0", "at least 1"),
    ("--algorithm=gaia --skewscout=hill", "never reaches"),
    ("--algorithm=fedavg --local_steps=3 --skewscout=measure --scout_every=4", "never reaches"),
    ("--algorithm=gaia --skewscout=hill --threshold=0", "--skewscout=off"),
    ("--scout_every=0", "--skewscout"),
    ("--algorithm=gaia --skewscout=hill --scout_sigma_al=-1", "0 or more"),
    ("--algorithm=gaia --cohort=2", "cohort"),
    ("--algorithm=sgd", "bsp"),
    ("--algorithm=gaia --norm=gn --batch_stats=local", "running statistics"),
    (
      "--coordinator_address=localhost:2 --num_processes=2 --process_id=0 --workdir=x",
      "one process",
    ),
  ],
)
def test_bad_flags_get_a_sentence(decentralized_run, flags, told):
  result = decentralized_run(*flags.split())
  assert result.code in (1, 2)
  assert told in result.err
  assert "Traceback" not in result.err
