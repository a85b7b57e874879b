"""The ends of intervals, their learning rates and thetas, and the controllers' states."""

from types import SimpleNamespace

import chex
import numpy as np
import pytest

from fedjax_norm.algorithms.costs.ledger import Traffic
from fedjax_norm.control.freeze import CALIBRATE, EXPLORE, Freeze
from fedjax_norm.control.plateau import Plateau
from fedjax_norm.control.skewscout import ScoutConfig, SkewScout
from fedjax_norm.control.theta import ThetaSchedule
from fedjax_norm.errors import UserError
from fedjax_norm.training.config.freeze_options import FreezeConfig
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.interval_planner import Controls, next_interval, observe
from fedjax_norm.training.program_types import Phase, Program
from fedjax_norm.training.skewscout_run import SkewScoutRun

CONFIG = LoopConfig(rounds=20, eval_every=8)
RATES = np.linspace(1.0, 0.05, CONFIG.rounds, dtype=np.float32)
MODEL = {"params": {}, "batch_stats": {}}
SERVER = SimpleNamespace(variables=MODEL)


def program(freeze=None, plateau=None, scout=None):
  phases = {EXPLORE: Phase(*[None] * 3), CALIBRATE: Phase(*[None] * 3, rate_factor=0.5)}
  scouting = SkewScoutRun(scout, {}) if scout else None
  thetas = np.full(CONFIG.rounds, 0.1, np.float32)
  schedule = ThetaSchedule(thetas, follows_rate=True, scout=scout)
  first = (phases, None, None, freeze, plateau, None, RATES, "device", {})
  return Program(*first, theta_schedule=schedule, skewscout=scouting)


def after(one, controls, interval, loss=1.0):
  return observe(one, CONFIG, controls, interval, SERVER, loss, Traffic(300, 40, 1))


@pytest.mark.parametrize(
  ("at", "rounds", "round"),
  [("half", 9, 4), ("25%", 80, 20), ("75%", 40, 30), ("25%", 2, 1), ("99%", 10, 9), (3, 10, 3)],
)
def test_the_freeze_may_be_at_a_share_of_the_rounds(at, rounds, round):
  assert FreezeConfig(freeze_round=at).freeze(rounds, 1).round == round


@pytest.mark.parametrize("at", ["0%", "100%", "2.5%", "-5%", "%", "soon"])
def test_other_words_are_no_share(at):
  with pytest.raises(UserError, match=f"--freeze_round is '{at}'; give a round, a share"):
    FreezeConfig(freeze_round=at).check()


@pytest.mark.parametrize(
  ("options", "ends"),
  [
    ({}, [8, 16, 20]),
    ({"freeze": Freeze(10)}, [8, 10, 16, 20]),
    ({"freeze": Freeze(8)}, [8, 16, 20]),
  ],
)
def test_intervals_end_at_evaluations_the_freeze_and_the_end(options, ends):
  one = program(**options)
  controls, ends_so_far = Controls.initial(one, MODEL), [0]
  while ends_so_far[-1] < CONFIG.rounds:
    interval = next_interval(one, CONFIG, controls, ends_so_far[-1])
    frozen = "freeze" in options and interval.first >= options["freeze"].round
    assert interval.phase == (CALIBRATE if frozen else EXPLORE)
    rates = RATES[interval.first : interval.end] * np.float32(0.5 if frozen else 1)
    np.testing.assert_array_equal(interval.rates, rates)
    # Theta is proportional to the rate; the peak is the first scheduled rate.
    np.testing.assert_allclose(interval.thetas, 0.1 * rates / RATES[0], rtol=1e-6)
    controls = after(one, controls, interval)
    ends_so_far.append(interval.end)
  assert ends_so_far[1:] == ends
  assert controls.frozen_at == (options["freeze"].round if options else None)


def test_a_look_of_skewscout_ends_an_interval_and_is_ignored_by_the_plateau():
  scout = SkewScout((0.1, 0.2), config=ScoutConfig(skewscout="hill", scout_every=5))
  one = program(plateau=Plateau(factor=0.5, patience=1), scout=scout)
  controls = Controls.initial(one, MODEL)
  interval = next_interval(one, CONFIG, controls, 0)
  assert (interval.first, interval.end) == (0, 5)
  # The loss does not fall; the first of the two evaluations sets the best loss.
  factors, ends = [], (5, 8, 10, 16)
  for end in ends:
    controls = after(one, controls, interval._replace(end=end))
    factors.append(float(controls.plateau.scale))
  assert factors == [1, 1, 1, 0.5]
  unknown = after(one, controls, interval._replace(end=20), loss=float("nan"))
  chex.assert_trees_all_equal(unknown.plateau, controls.plateau)
  assert int(controls.scout.sent) == len(ends) * 340
  controls = controls._replace(scout=scout.observe(controls.scout, 0.0, 1.0, 16))
  interval = next_interval(one, CONFIG, controls, 16)
  np.testing.assert_array_equal(interval.rates, RATES[16:20] * np.float32(0.5))
