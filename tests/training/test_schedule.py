"""Learning rate schedules against their formulas."""

import numpy as np
import pytest

from fedjax_norm.control.plateau import Plateau
from fedjax_norm.errors import UserError
from fedjax_norm.training.config.schedule import Schedule

ROUNDS = np.arange(10)


@pytest.mark.parametrize(
  ("schedule", "expected"),
  [
    (Schedule(0.1), np.full(10, 0.1)),
    (Schedule(0.1, "cosine"), 0.05 * (1 + np.cos(np.pi * ROUNDS / 10))),
    (
      Schedule(0.1, "step", lr_boundaries=(4, 8), lr_factor=0.5),
      0.1 * 0.5 ** np.searchsorted([4, 8], ROUNDS, side="right"),
    ),
    (Schedule(0.1, "step", lr_boundaries=(0.25, 0.8)), [0.1] * 2 + [0.01] * 6 + [0.001] * 2),
    # Two shares in one round both take effect, and not before the second round.
    (Schedule(0.1, "step", lr_boundaries=(0.01, 0.02)), [0.1] + [0.001] * 9),
    # A share near 1 takes effect in the last round.
    (Schedule(0.1, "step", lr_boundaries=(0.99,)), [0.1] * 9 + [0.01]),
    (Schedule(0.1, "polynomial", lr_power=0.5), 0.1 * (1 - ROUNDS / 10) ** 0.5),
    (Schedule(0.1, "exponential", lr_factor=0.01), 0.1 * 0.01 ** (ROUNDS / 10)),
    (Schedule(0.1, lr_warmup_rounds=4), 0.1 * np.minimum(1, (ROUNDS + 1) / 4)),
    (
      Schedule(0.8, lr_warmup_rounds=4, lr_warmup_from=0.1),
      [0.275, 0.45, 0.625, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8],
    ),
    # The warm-up multiplies the schedule, which is at half of its rate after five of ten rounds.
    (
      Schedule(0.8, "polynomial", lr_warmup_rounds=5, lr_warmup_from=0.2),
      0.8 * (1 - ROUNDS / 10) * np.minimum(1, 0.25 + 0.75 * (ROUNDS + 1) / 5),
    ),
    (Schedule(0.1, "plateau"), np.full(10, 0.1)),
  ],
  ids=lambda value: value.lr_schedule if isinstance(value, Schedule) else "",
)
def test_formula(schedule, expected):
  np.testing.assert_allclose(schedule.rates(10), expected, rtol=1e-5)


@pytest.mark.parametrize(
  "wrong",
  [
    {"lr": 0.0},
    {"lr": float("nan")},
    {"lr": 0.1, "lr_schedule": "linear"},
    {"lr": 0.1, "lr_schedule": "step"},
    {"lr": 0.1, "lr_boundaries": (3,)},
    {"lr": 0.1, "lr_schedule": "step", "lr_boundaries": (3, 3)},
    {"lr": 0.1, "lr_schedule": "step", "lr_boundaries": (0.5, 3)},
    {"lr": 0.1, "lr_schedule": "step", "lr_boundaries": (1.5,)},
    {"lr": 0.1, "lr_schedule": "step", "lr_boundaries": (float("nan"),)},
    {"lr": 0.1, "lr_schedule": "step", "lr_boundaries": (float("inf"),)},
    {"lr": 0.1, "lr_warmup_rounds": -1},
    {"lr": 0.1, "lr_schedule": "exponential", "lr_factor": 0.0},
    {"lr": 0.1, "lr_factor": 0.5},
    {"lr": 0.1, "lr_schedule": "plateau", "lr_factor": 1.0},
    {"lr": 0.1, "lr_schedule": "plateau", "lr_factor": 0.0},
    {"lr": 0.1, "lr_schedule": "plateau", "lr_patience": 0},
    {"lr": 0.1, "lr_patience": 2},
    {"lr": 0.1, "lr_warmup_from": 0.0},
    {"lr": 0.1, "lr_warmup_rounds": 2, "lr_warmup_from": 0.1},
    {"lr": 0.1, "lr_warmup_rounds": 2, "lr_warmup_from": -0.1},
    {"lr": 0.1, "lr_warmup_rounds": 2, "lr_warmup_from": float("nan")},
  ],
)
def test_invalid_options_are_refused(wrong):
  with pytest.raises(UserError):
    Schedule(**wrong)


@pytest.mark.parametrize(
  ("schedule", "message"),
  [
    (Schedule(0.1, "step", lr_boundaries=(3, 9)), "a run of 9 rounds never reaches; lower it"),
    (Schedule(0.1, lr_warmup_rounds=10), "--lr_warmup_rounds is 10, and the run has 9"),
  ],
)
def test_rounds_after_the_end_of_the_run_are_refused(schedule, message):
  with pytest.raises(UserError, match=message):
    schedule.rates(9)


def test_a_plateau_waits_for_the_warm_up():
  assert Schedule(0.1, "cosine").plateau() is None
  schedule = Schedule(0.1, "plateau", lr_factor=0.5, lr_patience=2, lr_warmup_rounds=4)
  assert schedule.plateau() == Plateau(0.5, 2, start=4)
