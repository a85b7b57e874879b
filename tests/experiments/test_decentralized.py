"""``experiments.decentralized`` as a user runs it, with good and with bad input."""

from pathlib import Path

import numpy as np
import pytest
from helpers.run_bits import read

from fedjax_norm.cli.methods import DECENTRALIZED
from fedjax_norm.training.skewscout_run import make_theta_schedule


def filled(algorithm: str, **options):
  """The config for ten clients with all defaults filled in."""
  config = DECENTRALIZED.config(algorithm)(**options).in_rounds(10, 1000)
  return config.fill_defaults(config.make_norm(config.rounds), all_clients=True)


def theta_schedule(config):
  return make_theta_schedule(config, config.row, config.rounds)


@pytest.mark.long
def test_skewscout_by_epochs(decentralized_run):
  """Two epochs of two rounds; rate and theta fall after the first."""
  flags = "--algorithm=gaia --norm=bn --epochs=2 --lr_schedule=step --lr_boundaries=1 --network=wan"
  flags += " --skewscout=hill --scout_every=1 --scout_examples=8 --scout_grid=0.1,0.2"
  result = decentralized_run(*flags.split(), "--scout_start=0.2", "--workdir=run")
  assert result.code == 0, result.err
  assert "SkewScout (hill) chooses from 0.1, 0.2 every 1 rounds" in result.out
  assert "accuracy loss" in result.out
  assert "final theta" in result.out
  assert "client models, top-1" in result.out
  written = read(Path("run"))
  assert [row["round"] for row in written] == ["1", "2", "3", "4"]
  assert float(written[0]["theta"]) == pytest.approx(0.2)
  assert float(written[2]["theta"]) in (pytest.approx(0.01), pytest.approx(0.02))
  assert [float(row["rate"]) for row in written] == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_defaults():
  config = filled("gaia", norm="bn")
  assert config.batch_stats == "local"
  assert filled("gaia", norm="fixbn").batch_stats == "mean"
  threshold = theta_schedule(config)
  assert threshold.follows_rate
  assert threshold.scout is None
  np.testing.assert_allclose(threshold.values, np.full(600, 0.1, np.float32))
  bsp = filled("bsp")
  assert theta_schedule(bsp) is None
  assert (bsp.reduction, bsp.weighting) == ("sum", "uniform")
  assert filled("bsp", norm="sync_bn").weighting == "examples"
  assert filled("bsp", reduction="mean").weighting == "uniform"


def test_warm_up_and_boundaries_in_epochs():
  """An epoch has 500 mini-batches, so that E_warm = 2 makes stages of 1,000."""
  flags = DECENTRALIZED.config("dgc")(
    batch_size=20, epochs=12, sparsity_warmup_epochs=2, lr_schedule="step", lr_boundaries=(6, 9)
  )
  config = flags.in_rounds(5, 50_000)
  assert (config.rounds, config.lr_boundaries) == (6000, (3000, 4500))
  assert config.in_rounds(5, 50_000) == config
  values = theta_schedule(config).values
  np.testing.assert_allclose(
    values[::1000], [0.75, 0.9375, 0.984375, 0.996, 0.999, 0.999], rtol=1e-6
  )


def test_the_grids_are_the_papers():
  grids = {
    "gaia": (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    "fedavg": (5, 10, 20, 50, 200, 500, 1000),
    "dgc": (0.75, 0.9375, 0.984375, 0.996, 0.999),
  }
  for name, grid in grids.items():
    config = filled(name, skewscout="hill", rounds=500)
    scout = theta_schedule(config).scout
    assert (scout.grid, scout.start, scout.is_integer) == (grid, 0, name == "fedavg")
    assert scout.is_sparsity == (name == "dgc")
    assert (config.scout_every, scout.init().next_look) == (500, 500)
    assert (config.scout_lambda_al, config.scout_lambda_c, config.scout_sigma_al) == (50, 1, 0.05)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ("--threshold=0.1", "Unknown command line flag 'threshold'"),
    ("--algorithm=gaia --reduction=mean", "Unknown command line flag 'reduction'"),
    ("--algorithm=gaia --sparsity=0.9", "Unknown command line flag 'sparsity'"),
    ("--algorithm=gaia --threshold=-1", "at least 0"),
    ("--algorithm=fedavg --local_steps=0", "at least 1"),
    ("--algorithm=fedavg --momentum=0 --client_momentum=reset", "it needs --momentum;"),
    ("--algorithm=dgc --sparsity=1", "below 1"),
    ("--algorithm=dgc --momentum=0 --momentum_masking", "it needs --momentum;"),
    ("--algorithm=dgc --sparsity_warmup_epochs=1 --sparsity_warmup_rounds=1", "not both"),
    ("--skewscout=hill", "nothing to choose"),
    ("--scout_every=2", "--skewscout"),
    (
      "--algorithm=gaia --skewscout=measure --scout_grid=0.1",
      "--skewscout=hill or stochastic or annealing",
    ),
    ("--algorithm=gaia --skewscout=hill --threshold=0.1", "--skewscout=off"),
    ("--algorithm=gaia --skewscout=hill --scout_temperature=1", "annealing"),
    ("--algorithm=gaia --skewscout=hill --scout_start=0.15", "the grid"),
    ("--algorithm=gaia --skewscout=hill --scout_grid=a", "numbers"),
    ("--algorithm=fedavg --skewscout=hill --scout_grid=0.5,2", "whole numbers of at least 1"),
    ("--algorithm=dgc --skewscout=hill --scout_grid=0.5,2", "shares of at least 0 and below 1"),
    ("--algorithm=gaia --skewscout=hill --scout_every=0", "at least 1"),
    ("--algorithm=gaia --skewscout=hill", "measures first after"),
    ("--algorithm=fedavg --local_steps=3 --skewscout=measure --scout_every=4", "measures first"),
    ("--algorithm=gaia --skewscout=hill --threshold=0", "--skewscout=off"),
    ("--scout_every=0", "at least 1"),
    ("--algorithm=gaia --skewscout=hill --scout_sigma_al=-1", "at least 0"),
    ("--algorithm=gaia --cohort=2", "cohort"),
    ("--algorithm=sgd", "bsp"),
    ("--algorithm=gaia --norm=gn --batch_stats=local", "running statistics"),
    (
      "--coordinator_address=localhost:2 --num_processes=2 --process_id=0 --workdir=x",
      "one process",
    ),
  ],
)
def test_bad_flags_get_a_sentence(decentralized_run, flags, message):
  result = decentralized_run(*flags.split())
  assert result.code in (1, 2)
  assert message in result.err
  assert "Traceback" not in result.err
