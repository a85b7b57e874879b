"""A verdict follows only from fair comparisons; small differences are called equal."""

from pathlib import Path

import numpy as np
import pytest
from helpers.conclusions import BAD, EDGE, GOOD, RATES, TOP1, answer, conclude, words
from helpers.contenders import contender, tuning
from scipy import stats

from fedjax_norm.study.advice.recommendation import recommend


def test_contenders_within_the_margin_are_equally_good():
  near = [0.908, 0.921, 0.917]  # less than a point apart, with every seed
  found = conclude(
    contender("gn, fedavg", near, tuning=RATES), contender("bn, fedavg", GOOD, tuning=RATES)
  )
  norm = answer(found, "Which norm?")
  interval = stats.ttest_rel(near, GOOD).confidence_interval(0.95)
  assert -0.01 < interval.low < 0 < interval.high < 0.01
  assert (norm.verdict, norm.reasons) == ("undecided", ("equally good within 1 point",))
  assert norm.sentences[0].endswith("; they are equally good within 1 point.")
  assert 'is no more than 1 point better than "bn, fedavg"' in found.summary
  assert "--seeds" not in words(*found.next_steps)
  ahead = [value + 0.002 + 0.0005 * i for i, value in enumerate(GOOD)]  # surely, but by little
  found = conclude(contender("gn, fedavg", ahead), contender("bn, fedavg", GOOD))
  norm = answer(found, "Which norm?")
  assert norm.verdict == "decided"
  assert norm.sentences[0].endswith("; a lead of less than 1 point.")


def test_more_than_ten_seeds_are_not_recommended():
  wide = [0.87, 0.93, 0.935]
  found = conclude(contender("gn, fedavg", GOOD), contender("bn, fedavg", wide))
  lead = np.subtract(GOOD, wide)
  assert stats.t.ppf(0.975, 9) * lead.std(ddof=1) / 10**0.5 > lead.mean()
  assert answer(found, "Which norm?").reasons == ("the seeds vary too much",)
  assert "More than 10 seeds would be needed" in words(*found.next_steps)
  assert "--seeds" not in words(*found.next_steps)
  most = 100 * max(map(abs, stats.ttest_1samp(lead, 0).confidence_interval(0.95)))
  assert f"differ by at most about {most:.2f} points; see whether" in words(*found.next_steps)
  two = conclude(contender("gn, fedavg", GOOD[:2]), contender("bn, fedavg", wide[:2]))
  assert answer(two, "Which norm?").reasons == ("too few seeds",)
  assert "--seeds=3, for narrower intervals" in words(*two.next_steps)
  equal = conclude(contender("gn, fedavg", [0.9, 0.8]), contender("bn, fedavg", [0.7, 0.6]))
  assert answer(equal, "Which norm?").verdict == "undecided"  # an interval without width
  assert "2 equal differences decide nothing" in answer(equal, "Which norm?").sentences[0]


@pytest.mark.parametrize(
  ("state", "verdict"),
  [(None, "undecided"), ("failed", "undecided"), ("diverged", "decided"), ("done", "decided")],
)
def test_an_algorithm_without_the_best_local_steps_is_not_beaten_by_them(state, verdict):
  members = [
    contender("gn, fedavg, 10 local steps", GOOD, tuning=RATES),
    contender("gn, fedavg, 1 local step", BAD, tuning=RATES),
    contender("gn, scaffold, 1 local step", BAD, tuning=RATES),
    contender("gn, ssgd", BAD, tuning=RATES),  # has no such option
  ]
  if state:
    scores = BAD if state == "done" else []
    members.append(contender("gn, scaffold, 10 local steps", scores, state=state, tuning=RATES))
  found = conclude(*members)
  algorithm = answer(found, "Which algorithm?")
  assert (algorithm.verdict, "ssgd" in algorithm.choice) == (verdict, False)
  text = 'With scaffold instead of fedavg, there is no result like "gn, fedavg, 10 local steps", so'
  assert (text in words(*found.limits)) == (state != "done")
  added = "--workdir='runs/my study' and scaffold:local_steps=10 added to --algorithms"
  assert (added in words(*found.next_steps)) == (state is None)
  if verdict == "undecided":
    assert algorithm.choice == ("fedavg", "scaffold")
    assert algorithm.reasons == ("not compared with everything else equal",)


def test_a_norm_that_was_run_with_another_algorithm_is_not_beaten():
  members = contender("gn, fedavg", GOOD), contender("bn, scaffold", BAD)
  found = conclude(*members, study=None)
  assert [one.verdict for one in found.answers] == ["undecided", "undecided"]
  assert 'Run "gn, fedavg" with the norm bn as well.' in found.next_steps
  ssgd = conclude(contender("gn, ssgd", GOOD), contender("gn, fedavg, 10 local steps", BAD))
  assert answer(ssgd, "Which algorithm?").verdict == "undecided"
  one = conclude(contender("gn, ssgd", GOOD), contender("gn, fedavg, 1 local step", BAD))
  assert answer(one, "Which algorithm?").verdict == "decided"
  apart = [
    contender(name, scores, options={"norm": name, "algorithm": "fedavg", "lr": lr} | more)
    for name, scores, lr, more in (("gn", GOOD, 0.1, {}), ("bn", BAD, 0.3, {"batch_size": 64}))
  ]
  assert answer(conclude(*apart), "Which norm?").verdict == "undecided"  # the batch may be why
  del apart[1].options["batch_size"]
  assert answer(conclude(*apart), "Which norm?").verdict == "decided"  # each has its own rate


def test_bytes_that_differ_by_less_than_five_percent_are_the_same():
  found = conclude(
    contender("gn, fedavg", GOOD, 13_600_000), contender("bn, fedavg", BAD, 13_500_000)
  )
  assert [one.question for one in found.answers] == ["Which norm?"]
  assert "All contenders send about the same: 13.5 MB to 13.6 MB per run." in found.remarks
  near = [value - 0.001 for value in GOOD]
  found = conclude(
    contender("gn, fedavg", GOOD, 30_000_000),
    contender("bn, fedavg", near, 10_100_000),
    contender("ln, fedavg", [value - 0.002 for value in GOOD], 10_000_000),
    contender("fixbn, fedavg", BAD, 29_000_000),
  )
  assert answer(found, "How much communication?").choice == ("bn, fedavg",)


def test_a_best_contender_at_the_edge_may_be_further_ahead_of_a_cheaper_one():
  found = conclude(
    contender("gn, fedavg", GOOD, 12_000_000, tuning=EDGE),
    contender("cheap, fedavg", [0.908, 0.917, 0.912], 1_000_000, tuning=RATES),
  )
  bytes_ = answer(found, "How much communication?")
  assert (bytes_.verdict, bytes_.choice) == ("undecided", ("cheap, fedavg", "gn, fedavg"))


def test_unequal_training_and_too_few_evaluations_are_said():
  long, short = contender("gn, fedavg", GOOD), contender("bn, fedavg", BAD)
  for run in long.runs:
    for row in run.rows:
      row["examples"] *= 2
  for run in short.runs:
    del run.rows[:5]
  found = conclude(long, short)
  assert 'not equally long: "gn, fedavg" saw 11,000 training examples' in words(*found.limits)
  assert 'evaluations of "bn, fedavg" are too few to tell' in words(*found.limits)
  assert "a larger --budget" in words(*found.next_steps)


def test_the_number_of_validation_examples_limits_what_the_rates_say():
  one, other = contender("gn, fedavg", GOOD, tuning=RATES), contender("bn, fedavg", BAD)
  assert "judged by" not in words(*conclude(one, other).limits)
  trials = tuple(trial._replace(examples=1082) for trial in RATES.trials)
  known = one._replace(tuning=RATES._replace(trials=trials))
  text = "judged by one run, with one seed, on 1,082 validation examples, so"
  assert text in words(*conclude(known, other).limits)


def test_the_rates_to_try_next_are_those_around_the_chosen_ones_of_all_settings():
  grid = {0.001: 0.5, 0.003: 0.6, 0.01: 0.7, 0.03: 0.4, 0.1: 0.2}
  members = [
    contender("gn, fedavg", GOOD, tuning=EDGE),  # 0.1, above 0.03
    contender("bn, fedavg", BAD, tuning=RATES),
    contender("bn, fedavg", BAD, setting="skewed", tuning=tuning(grid)),
  ]
  first, second = recommend(members, TOP1, Path("runs/s")).conclusions
  assert "another --workdir and --lrs=0.003,0.01,0.03,0.1,0.3,1." in words(*first.next_steps)
  assert "--lrs" not in words(*second.next_steps)
  alone = recommend(members, TOP1).conclusions[0].next_steps
  assert "the study's command (python -m experiments.study) with another" in words(*alone)


def test_runs_that_exist_are_repeated_with_more_seeds():
  near = [0.905, 0.90, 0.91]
  found = conclude(contender("gn, fedavg", GOOD), contender("bn, fedavg", near), study=None)
  assert "Repeat the runs with --seeds=" in words(*found.next_steps)
  assert "command" not in words(*found.next_steps)


def test_of_contenders_that_reach_the_target_with_about_the_same_bytes_the_better_is_named():
  for dear, named in ((1_040_000, "gn, fedavg"), (1_100_000, "bn, fedavg")):
    near = [value - 0.001 for value in GOOD]
    found = conclude(contender("gn, fedavg", GOOD, dear), contender("bn, fedavg", near, 1_000_000))
    assert f'"{named}" with the fewest bytes' in words(*found.remarks)
