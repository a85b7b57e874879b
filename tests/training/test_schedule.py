"""Learning rates against their formulas."""

import numpy as np
import pytest

from fedjax_norm.errors import UserError
from fedjax_norm.training.schedule import Schedule

ROUNDS = np.arange(10)


@pytest.mark.parametrize(
  ("schedule", "expected"),
  [
    (Schedule(0.1), np.full(10, 0.1)),
    (Schedule(0.1, "cosine"), 0.05 * (1 + np.cos(np.pi * ROUNDS / 10))),
    (
      Schedule(0.1, "step", boundaries=(4, 8), factor=0.5),
      0.1 * 0.5 ** np.searchsorted([4, 8], ROUNDS, side="right"),
    ),
    (Schedule(0.1, "step", boundaries=(0.25, 0.8)), [0.1] * 2 + [0.01] * 6 + [0.001] * 2),
    # Shares that meet in one round each take effect, and none before the second round.
    (Schedule(0.1, "step", boundaries=(0.01, 0.02)), [0.1] + [0.001] * 9),
    # A late share still takes effect in the last round.
    (Schedule(0.1, "step", boundaries=(0.99,)), [0.1] * 9 + [0.01]),
    (Schedule(0.1, "polynomial", power=0.5), 0.1 * (1 - ROUNDS / 10) ** 0.5),
    (Schedule(0.1, "exponential", factor=0.01), 0.1 * 0.01 ** (ROUNDS / 10)),
    (Schedule(0.1, warmup_rounds=4), 0.1 * np.minimum(1, (ROUNDS + 1) / 4)),
    (
      Schedule(0.8, warmup_rounds=4, warmup_from=0.1),
      [0.275, 0.45, 0.625, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8],
    ),
    # The schedule goes on underneath: at half of its rate after five rounds of ten.
    (
      Schedule(0.8, "polynomial", warmup_rounds=5, warmup_from=0.2),
      0.8 * (1 - ROUNDS / 10) * np.minimum(1, 0.25 + 0.75 * (ROUNDS + 1) / 5),
    ),
    (Schedule(0.8, warmup_from=0.2), np.full(10, 0.8)),
  ],
  ids=lambda value: value.kind if isinstance(value, Schedule) else "",
)
def test_formula(schedule, expected):
  np.testing.assert_allclose(schedule.rates(10), expected, rtol=1e-5)


@pytest.mark.parametrize(
  "wrong",
  [
    {"rate": 0.0},
    {"rate": float("nan")},
    {"rate": 0.1, "kind": "linear"},
    {"rate": 0.1, "kind": "step"},
    {"rate": 0.1, "boundaries": (3,)},
    {"rate": 0.1, "kind": "step", "boundaries": (3, 3)},
    {"rate": 0.1, "kind": "step", "boundaries": (0.5, 3)},
    {"rate": 0.1, "kind": "step", "boundaries": (1.5,)},
    {"rate": 0.1, "kind": "step", "boundaries": (float("nan"),)},
    {"rate": 0.1, "kind": "step", "boundaries": (float("inf"),)},
    {"rate": 0.1, "warmup_rounds": -1},
    {"rate": 0.1, "factor": 0.0},
    {"rate": 0.1, "warmup_rounds": 2, "warmup_from": 0.1},
    {"rate": 0.1, "warmup_rounds": 2, "warmup_from": -0.1},
    {"rate": 0.1, "warmup_rounds": 2, "warmup_from": float("nan")},
  ],
)
def test_refusals(wrong):
  with pytest.raises(UserError):
    Schedule(**wrong)
