"""A study's answer in words follows from its results; the outcomes are planted."""

import random
import re

import numpy as np
import pytest
from helpers.conclusions import BAD, EDGE, GOOD, RATES, TOP1, answer, conclude, words
from helpers.contenders import contender
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedjax_norm.study.advice.recommendation import as_text, recommend
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.results import table


def check_evidence(sentence, first, second):
  """The numbers of a sentence are those of SciPy's paired t-test, in percentage points."""
  interval = stats.ttest_rel(first, second).confidence_interval(0.95)
  by, low, high, seeds = re.search(
    r"ahead of .* by ([0-9.]+) points? \(95% interval ([-0-9.]+) to ([-0-9.]+), (\d+) seeds\)",
    sentence,
  ).groups()
  expected = [100 * np.mean(np.subtract(first, second)), 100 * interval.low, 100 * interval.high]
  np.testing.assert_allclose([float(by), float(low), float(high)], expected, atol=0.00501)
  assert int(seeds) == len(first)


def test_a_clear_winner_is_decided():
  found = conclude(
    contender("gn, fedavg, 10 local steps", GOOD, tuning=RATES),
    contender("bn, fedavg, 10 local steps", BAD, tuning=RATES),
    contender("gn, scaffold, 10 local steps", [0.85, 0.84, 0.85], 8_000_000, tuning=RATES),
  )
  assert found.best == "gn, fedavg, 10 local steps"
  assert "its lead over each other one is more than chance explains" in found.summary
  assert "top-1 91.50% ± 0.50% (3 seeds)" in found.summary
  norm, algorithm, bytes_ = found.answers
  assert (norm.question, norm.verdict, norm.choice) == ("Which norm?", "decided", ("gn",))
  assert '"bn, fedavg, 10 local steps", the best with bn,' in norm.sentences[0]
  check_evidence(norm.sentences[0], GOOD, BAD)
  assert (algorithm.verdict, algorithm.choice) == ("decided", ("fedavg",))
  check_evidence(algorithm.sentences[0], GOOD, [0.85, 0.84, 0.85])
  assert (bytes_.verdict, bytes_.choice) == ("decided", (found.best,))
  assert "sends 2.00 MB per run, and no other one sends less by more than 5%" in bytes_.sentences[0]
  assert found.next_steps == ("Nothing more is needed to answer these questions for this budget.",)
  assert not [text for text in found.limits if "separate" in text or "budget" in text]


def test_a_tie_is_undecided_and_says_how_many_seeds_would_decide():
  other = [0.905, 0.90, 0.91]
  found = conclude(
    contender("gn, fedavg", GOOD, tuning=RATES), contender("bn, fedavg", other, tuning=RATES)
  )
  norm = answer(found, "Which norm?")
  assert (norm.verdict, norm.choice) == ("undecided", ("gn", "bn"))
  check_evidence(norm.sentences[0], GOOD, other)
  assert norm.sentences[0].endswith("the interval contains 0, so 3 seeds are too few to tell.")
  assert norm.reasons == ("too few seeds",)
  assert 'may be no better than "bn, fedavg"' in found.summary
  assert 'do not separate "gn, fedavg" from "bn, fedavg"' in words(*found.limits)
  steps = words(*found.next_steps)
  assert "Run the study's command with --workdir='runs/my study' and --seeds=" in steps
  count = int(re.search(r"--seeds=(\d+)", steps)[1])
  difference = np.subtract(GOOD, other)
  halves = [stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / n**0.5 for n in (count - 1, count)]
  assert halves[1] < difference.mean() <= halves[0]
  assert "Undecided: gn or bn (too few seeds)." in as_text(
    recommend([contender("gn, fedavg", GOOD), contender("bn, fedavg", other)], TOP1)
  )


def test_equal_contenders_are_chosen_by_their_costs():
  found = conclude(*(contender(n, GOOD, tuning=RATES) for n in ("gn, fedavg", "bn, fedavg")))
  assert answer(found, "Which norm?").verdict == "undecided"
  assert "equals" in answer(found, "Which norm?").sentences[0]
  assert answer(found, "Which norm?").reasons == ("equally good within 1 point",)
  assert "are equally good within 1 point, so choose by their costs" in words(*found.next_steps)
  assert "All contenders send about the same: 2.00 MB per run." in found.remarks
  shifted = [value - 0.1 for value in GOOD]
  found = conclude(contender("gn, fedavg", GOOD), contender("bn, fedavg", shifted))
  assert 'differs from "bn, fedavg" by exactly as much' in words(*found.limits)


def test_one_seed_decides_nothing():
  members = contender("gn, fedavg", [0.9], 100), contender("bn, fedavg", [0.5], 50)
  assert "another --workdir and --seeds=3" in conclude(*members).next_steps[0]
  found = conclude(*members, study=None)
  assert {one.verdict for one in found.answers} == {"undecided"}
  for one in found.answers:
    assert one.sentences[-1].endswith("(one seed, so no interval); that decides nothing.")
  assert "One seed gives no interval" in found.limits[0]
  assert "--seeds=3" in found.next_steps[0]
  assert "were given, not tuned" in words(*found.limits)
  assert "experiments.study" in words(*found.next_steps)
  assert "another --workdir and --lrs=auto" in words(*conclude(*members).next_steps)


def test_a_diverged_contender_loses_and_a_failed_one_leaves_the_question_open():
  best = contender("gn, fedavg", GOOD, tuning=RATES)
  for state, verdict in (
    ("diverged", "decided"),
    ("failed", "undecided"),
    ("pending", "undecided"),
  ):
    found = conclude(best, contender("bn, fedavg", [], state=state, reason="It overflowed."))
    norm = answer(found, "Which norm?")
    assert (norm.verdict, norm.choice[0]) == (verdict, "gn")
    assert norm.sentences == ("No contender with bn has a result.",)
    assert '"bn, fedavg": It overflowed.' in words(*found.limits)
    steps = words(*found.next_steps)
    assert ("runs what is missing" in steps) == (state == "pending")
    assert ('tries again what failed: "bn, fedavg".' in steps) == (state == "failed")
  nothing = conclude(contender("bn, fedavg", [], state="impossible", reason="They disagree."))
  assert (nothing.best, nothing.answers, nothing.remarks) == (None, (), ())
  assert nothing.summary == "No contender has a result."


def test_a_loser_whose_rate_is_at_the_edge_leaves_the_norm_open():
  found = conclude(
    contender("gn, fedavg", GOOD, tuning=RATES), contender("bn, fedavg", BAD, tuning=EDGE)
  )
  norm = answer(found, "Which norm?")
  assert (norm.verdict, norm.choice) == ("undecided", ("gn", "bn"))
  assert "may be better at a rate beyond its search" in norm.sentences[0]
  assert 'the highest one of the search for "bn, fedavg" (lr=0.1)' in words(*found.limits)
  assert "another --workdir and --lrs=0.03,0.1,0.3,1." in words(*found.next_steps)
  assert "--seeds" not in words(*found.next_steps)
  winner = conclude(
    contender("gn, fedavg", GOOD, tuning=EDGE), contender("bn, fedavg", BAD, tuning=RATES)
  )
  assert answer(winner, "Which norm?").verdict == "decided"


def test_a_budget_too_small_to_converge_is_said():
  found = conclude(
    contender("gn, fedavg", GOOD, tuning=RATES),
    contender("bn, fedavg", BAD, tuning=RATES, flat=False),
  )
  assert 'too small for "bn, fedavg" to converge' in words(*found.limits)
  assert "twice the --budget" in words(*found.next_steps)


@pytest.mark.parametrize(
  ("cheap", "verdict", "first"),
  [
    ([0.908, 0.917, 0.912], "decided", "cheap, fedavg"),  # surely within a point
    ([0.90, 0.93, 0.905], "undecided", "cheap, fedavg"),  # within a point on average
    (BAD, "decided", "gn, fedavg"),  # surely worse
    ([0.88, 0.915, 0.89], "undecided", "gn, fedavg"),  # worse on average
  ],
)
def test_the_cheapest_contender_that_keeps_the_score(cheap, verdict, first):
  found = conclude(
    contender("gn, fedavg", GOOD, 12_000_000, tuning=RATES),
    contender("cheap, fedavg", cheap, 1_000_000, tuning=RATES),
  )
  bytes_ = answer(found, "How much communication?")
  assert (bytes_.verdict, bytes_.choice[0]) == (verdict, first)
  lead = np.subtract(GOOD, cheap)
  interval = stats.ttest_1samp(lead, 0).confidence_interval(0.95)
  sure = interval.high <= 0.01 if lead.mean() <= 0.01 else interval.low > 0.01
  assert sure == (verdict == "decided")
  check_evidence(bytes_.sentences[1], GOOD, cheap)
  if first == "cheap, fedavg":
    assert "sends 1.00 MB per run, 12 times less" in bytes_.sentences[0]


def test_clients_models_and_the_target_are_remarked():
  hospitals = {"Bern": 0.5, "Oslo": 0.9, "Rome": 0.91}
  found = conclude(
    contender("gn, fedavg", GOOD, clients=hospitals, unseen={"Kiel": 0.4}, single_model=False),
    contender("bn, fedavg", BAD),
  )
  text = words(*found.remarks)
  assert "the worst client is Bern with 50.00%; the mean over the clients is 77.00%" in text
  assert "took no part in training, it has 40.00% on average" in text
  assert "a model for each client, not one model to serve" in text
  assert 'With one model to serve, "bn, fedavg" is best' in text
  assert "The target is 90.50%, 1 point worse than the score of the best contender with" in text
  assert "1 of 2 contenders reached it" in text


def test_unseen_clients_that_differ_by_seed_are_named():
  one = contender("gn, fedavg", GOOD, unseen={"Kiel": 0.4, "New Bern": 0.6})
  text = words(*conclude(one).remarks)
  assert "50.00% on average and 40.00% on the worst of them (Kiel 40.00%, New Bern 60.00%)." in text
  assert "different clients" not in text
  one.runs[1].evaluation["clients"][0]["name"] = "Porto"
  text = words(*conclude(one).remarks)
  assert "(Kiel 40.00%, Porto 40.00%, New Bern 60.00%)" in text
  assert "The seeds held out different clients, so that the spread over seeds is mostly" in text
  assert "for instance --unseen_clients='Kiel,New Bern', holds out the same" in text
  numbered = contender("gn, fedavg", GOOD, unseen={"3": 0.4})
  numbered.runs[1].evaluation["clients"][0]["name"] = "5"
  assert "for instance --unseen_clients='3,', holds" in words(*conclude(numbered).remarks)


def test_the_worst_client_is_that_of_the_round_of_the_score():
  one = contender("gn, fedavg", GOOD, clients={"Bern": 0.5, "Oslo": 0.9}, recalls={"ill": 0.8})
  clients = [{**entry, "top1": 1 - entry["top1"]} for entry in one.runs[0].evaluation["clients"]]
  runs = [r._replace(best_evaluation=r.evaluation | {"clients": clients}) for r in one.runs]
  text = words(*conclude(one._replace(runs=tuple(runs))).remarks)
  assert (
    'In the best round by validation of "gn, fedavg", the worst client is Oslo with 10.' in text
  )
  use = "used by `python -m experiments.predict --workdir=runs/planted/seed_0"
  assert f"{use} --best --images=DIR`." in text
  last = conclude(one._replace(runs=tuple(runs)), criterion=Criterion(score="last"))
  text = words(*last.remarks)
  assert 'After the last round of "gn, fedavg", the worst client is Bern with 50.00%' in text
  assert f"{use} --images=DIR`." in text


@pytest.mark.parametrize(("last", "unstable"), [(0.84, True), (0.87, False)])
def test_a_last_value_far_below_that_of_the_best_round_is_a_limit(last, unstable):
  one = contender("gn, fedavg", [0.9, 0.92], values={"top1": last})
  assert ("unstable" in table.notes(one, Criterion())) == unstable
  text = words(*conclude(one).limits)
  assert ('for "gn, fedavg" (7.00 points); how good' in text) == unstable


def test_uneven_classes_are_said_only_when_ranking_by_top1():
  one = contender("gn, fedavg", GOOD, recalls={"healthy": 0.9, "ill": 0.1})
  for run in one.runs:
    run.evaluation["classes"][0]["examples"] = 190
    run.summary["balanced_accuracy"] = 0.5
  text = words(*conclude(one).limits)
  assert "95% of the test examples are of the class healthy" in text
  assert "compare 'runs/my study' --measure=balanced_accuracy" in words(*conclude(one).next_steps)
  other = Criterion("loss", "last")
  assert "class healthy" not in words(*conclude(one, criterion=other).limits)


def test_a_lower_loss_is_better():
  good, bad = [0.50, 0.51, 0.52], [0.60, 0.65, 0.66]
  found = conclude(
    contender("gn, fedavg", good, measure="rmse"),
    contender("bn, fedavg", bad, measure="rmse"),
    criterion=Criterion("rmse"),
  )
  norm = answer(found, "Which norm?")
  interval = stats.ttest_rel(bad, good).confidence_interval(0.95)
  assert norm.choice == ("gn",)
  assert f"by 0.127 (95% interval {interval.low:.3g} to {interval.high:.3g}" in norm.sentences[0]
  assert "point" not in words(*norm.sentences, *found.remarks)


def test_settings_are_never_compared():
  members = [
    contender("gn, fedavg", GOOD, setting="iid"),
    contender("bn, fedavg", BAD, setting="iid"),
    contender("gn, fedavg", BAD, setting="skewed"),
    contender("bn, fedavg", GOOD, setting="skewed"),
  ]
  found = recommend(members, TOP1)
  chosen = {one.setting: answer(one, "Which norm?").choice for one in found.conclusions}
  assert chosen == {"iid": ("gn",), "skewed": ("bn",)}
  text = as_text(found)
  assert text.index("Setting iid") < text.index("Setting skewed")


SCORES = st.lists(st.sampled_from([0.5, 0.52, 0.6, 0.9]), min_size=2, max_size=3)


@settings(max_examples=40)
@given(st.lists(SCORES, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_contenders_changes_nothing(scores, rng: random.Random):
  names = [f"{n}, {a}" for n in ("gn", "bn", "ln") for a in ("fedavg", "gaia")]
  members = [
    contender(name, values, 1000 * (1 + i % 2), tuning=RATES)
    for i, (name, values) in enumerate(zip(names, scores, strict=False))
  ]
  members.append(contender("in, fedavg", [], state="diverged", reason="It overflowed."))
  shuffled = rng.sample(members, len(members))
  assert as_text(recommend(members, TOP1)) == as_text(recommend(shuffled, TOP1))
