"""A verdict holds at the budget of the runs; planted curves that still rise may leave it open."""

import numpy as np
import pytest
from helpers.conclusions import BAD, GOOD, RATES, answer, conclude, words
from helpers.contenders import contender

from fedjax_norm.study.advice.recommendation import verdict_text
from fedjax_norm.study.ranking import Criterion


def rising(name, scores, gained, sent=2_000_000, measure="top1"):
  """A contender whose last three validation values are better than the three before by a number."""
  found = contender(name, scores, sent, tuning=RATES, measure=measure)
  sign = Criterion(measure).sign
  for run, score in zip(found.runs, scores, strict=True):
    for i, row in enumerate(run.rows):
      row[f"val_{measure}"] = score - sign * gained * (i < 7)
  return found


def test_a_verdict_names_the_budget_while_contenders_still_improve():
  best = contender("gn, fedavg", GOOD, tuning=RATES)
  flat = conclude(best, contender("bn, fedavg", BAD, tuning=RATES))
  assert verdict_text(answer(flat, "Which norm?")) == "Decided: gn."
  found = conclude(best, rising("bn, fedavg", BAD, 0.05))
  norm = answer(found, "Which norm?")
  assert verdict_text(norm) == 'Decided at this budget: gn ("bn, fedavg" still improves).'
  many = conclude(best, *(rising(f"{name}, fedavg", BAD, 0.05) for name in ("bn", "ln", "in")))
  text = verdict_text(answer(many, "Which norm?"))
  assert text == "Decided at this budget: gn (3 of 4 contenders still improve)."


@pytest.mark.parametrize(
  ("first", "second", "measure"),
  [(GOOD, BAD, "top1"), ([0.50, 0.51, 0.52], [0.60, 0.62, 0.64], "rmse")],
)
@pytest.mark.parametrize(("times", "verdict"), [(0.9, "decided"), (1.1, "undecided")])
def test_a_rival_that_gains_more_than_its_distance_may_overtake(
  first, second, measure, times, verdict
):
  distance = abs(np.mean(np.subtract(first, second)))
  found = conclude(
    contender("gn, fedavg", first, tuning=RATES, measure=measure),
    rising("bn, fedavg", second, times * distance, measure=measure),
    criterion=Criterion(measure),
  )
  norm = answer(found, "Which norm?")
  open_ = verdict == "undecided"
  assert (norm.verdict, norm.choice) == (verdict, ("gn", "bn") if open_ else ("gn",))
  assert norm.reasons == (("may overtake with more rounds",) if open_ else ())
  assert norm.tied == ()  # seeds do not decide it
  assert "--seeds" not in words(*found.next_steps)
  assert "twice the --budget" in words(*found.next_steps)
  if open_ and measure == "top1":
    assert norm.sentences[-1] == (
      f'"bn, fedavg" gained {110 * distance:.2f} points in the last third of its evaluations and '
      f'is {100 * distance:.2f} points behind "gn, fedavg", so it may overtake with more rounds.'
    )


@pytest.mark.parametrize(("gained", "verdict"), [(0.19, "decided"), (0.22, "undecided")])
def test_a_cheaper_rival_may_overtake_with_more_rounds(gained, verdict):
  found = conclude(
    contender("gn, fedavg", GOOD, 12_000_000, tuning=RATES),
    rising("cheap, fedavg", BAD, gained, 1_000_000),
  )
  assert answer(found, "How much communication?").verdict == verdict


def test_what_more_local_steps_send_and_bring():
  members = [
    contender("gn, fedavg, 10 local steps", GOOD, 1_000_000, tuning=RATES),
    contender("gn, fedavg, 2 local steps", [0.90, 0.925, 0.915], 5_000_000, tuning=RATES),
    contender("gn, fedavg, 20 local steps", BAD, 500_000, tuning=RATES),
    contender("bn, fedavg, 2 local steps", BAD, 5_000_000, tuning=RATES),
  ]
  more, less = answer(conclude(*members), "How much communication?").sentences[-2:]
  assert more.startswith(
    'With 2 local steps instead of 10 local steps, "gn, fedavg" sends 5 times as much and is not '
    "clearly better: -0.17 points (95% interval "
  )
  assert less.startswith(
    'With 20 local steps instead of 10 local steps, "gn, fedavg" sends 2 times less and is worse: '
    "-20.50 points"
  )
  one_number = answer(conclude(members[0], members[3]), "How much communication?")
  assert "instead of" not in words(*one_number.sentences)
