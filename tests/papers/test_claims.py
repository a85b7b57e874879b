"""Claims: verdicts about invented results and about the papers' own figures."""

import base64
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.paper_tables import invented, tables_of

from fedjax_norm.papers import report
from fedjax_norm.papers.claims import paper_verdict, verdict
from fedjax_norm.papers.registry import TABLES
from fedjax_norm.papers.results import MADE, as_json, collect, from_json
from fedjax_norm.papers.tables import Claim, loss
from fedjax_norm.study.contender import Contender, SeedRun
from fedjax_norm.study.verdicts import above, rising

FIGURE_5 = TABLES["004.fig5"]


def texts(table, result):
  return {claim.text: report.text_of(verdict(table, claim, result)) for claim in table.claims}


def states_of_the_paper(*papers):
  """Returns (last part of the table's name, claim) -> the paper's own verdict."""
  return {
    (table.name.rpartition(".")[2], claim.text): found.state
    for table in tables_of(*papers)
    for claim in table.claims
    if (found := paper_verdict(table, claim))
  }


def test_what_the_figures_of_paper_000_say_of_its_own_claims():
  """The differences between GN and its rivals, and between group sizes, are within the error."""
  states = states_of_the_paper("000")
  assert len(states) == 10
  assert {text for (_, text), state in states.items() if state != "held"} == {
    "local BN's accuracy falls at every step of R from 0.5 to 0",
    "GN is the best of the norms",
    "GN is sensitive to P: more than a point between two",
    "the accuracy rises at every step of P",
  }
  assert "not held" not in states.values()


def test_what_the_figures_of_papers_003_and_004_say_of_their_own_claims():
  assert set(states_of_the_paper("003").values()) <= {"held", "undecided"}
  denied = {
    key for key, state in states_of_the_paper("004").items()
    if state == "not held" and key[1].endswith("on IID data")
  }  # fmt: skip
  keeps = "{} keeps BSP's accuracy on IID data".format
  assert denied == {("resnet20", keeps("FedAvg")), ("resnet20", keeps("DGC"))}


def test_losses_of_the_paper_are_printed_or_differences():
  def losses(table):
    return {cell.label: table.paper_loss(cell) for cell in table.cells}

  assert losses(FIGURE_5)["BN, DGC, non-IID"] == pytest.approx(68.9)
  nine = {k: v for k, v in losses(TABLES["004.9"]).items() if math.isfinite(v)}
  assert nine == pytest.approx({"BN, non-IID": 13.4, "BatchReNorm, non-IID": 2.8})
  # A printed loss takes precedence over the difference of printed accuracies.
  assert losses(TABLES["004.fig19"])["K = 5, FedAvg, non-IID"] == 17.0


def test_losses_are_differences_of_accuracies():
  """By hand: BN loses 70 - 40, GN 70 - 65, with the error of four test results."""
  top1 = {"BN, Gaia, non-IID": 40.0, "GN, Gaia, non-IID": 65.0}
  result = invented(FIGURE_5, lambda label: top1.get(label, 70.0))
  found = verdict(
    FIGURE_5, Claim("", rising(loss("GN, Gaia, non-IID"), loss("BN, Gaia, non-IID"))), result
  )
  assert found.state == "held"
  assert found.margin.mean == pytest.approx(25)
  only = verdict(FIGURE_5, Claim("", above(2.0, loss("BN, Gaia, non-IID"))), result)
  assert only.margin.mean == pytest.approx(28)
  p = 0.7030, 0.4030
  error = 1.645 * 100 * math.sqrt(sum(x * (1 - x) for x in p) / 10_000)
  assert only.margin.low == pytest.approx(28 - error, abs=0.01)  # the difference never varies


def test_a_result_is_judged_only_where_it_can_be():
  table = TABLES["001.2"]
  good = {"IID BN": 70.0, "non-IID BN": 12.0, "non-IID GN": 68.0, "non-IID Fixup": 50.0}

  def about(result):
    return texts(table, result)["non-IID GN is better than non-IID BN"]

  assert about(invented(table, good.get)).startswith("held (+56.00 points")
  assert about(invented(table, good.get, scale="smoke")).startswith(
    "undecided: runs at scale smoke are too short (+56.00"
  )
  assert about(invented(table, {**good, "non-IID BN": None}.get)) == (
    "undecided: non-IID BN diverged"
  )
  guessing = invented(table, {**good, "IID BN": 10.0}.get)
  assert about(guessing).startswith("undecided: IID BN is within the error of guessing (10.0%)")
  two = invented(table, good.get)
  del two.cells["non-IID GN"].runs[2]
  assert about(two).startswith("undecided: 3 seeds are needed")
  pending = invented(table, good.get)
  pending.cells["IID BN"] = pending.cells["IID BN"]._replace(state="pending", runs={})
  assert about(pending).startswith("undecided: IID BN has not been run (+56.00")


@pytest.mark.parametrize("scale", ["small", "full"])
def test_runs_that_are_all_alike_hold_no_claim(scale):
  """Every run has exactly 10.00% and the same costs, which once held 45 of 134 claims."""
  for table in TABLES.values():
    same = invented(table, lambda _: 10.0, scale, bytes=lambda _: 9.0, client_flops=lambda _: 9.0)
    for cell in same.cells.values():
      for run in cell.runs.values():
        run |= {"top1": 10.0, "sent": 9.0}
    assert {verdict(table, claim, same).state for claim in table.claims} == {"undecided"}


def test_savings_need_bsps_accuracy_and_the_oracle_the_fewest_bytes():
  table = TABLES["004.fig8"]
  sent = {"BSP": 1200.0, "SkewScout": 60.0, "T_0 = 50%": 30.0}

  def result(lost=0.0, **changed):
    def top1(label):
      poor = label == "100%, T_0 = 50%" or (lost and label.endswith("SkewScout"))
      return 95.0 - (20.0 if poor else 0.0)  # with 70%, a point is within the error

    return invented(
      table, top1, bytes=lambda label: {**sent, **changed}.get(label.partition(", ")[2], 300.0)
    )

  def about(result, text):
    (found,) = [v for claim, v in texts(table, result).items() if text in claim]
    return found

  assert about(result(), "60%: SkewScout keeps").startswith("held")
  assert about(result(SkewScout=200.0), "60%: SkewScout keeps").startswith("not held")
  assert about(result(lost=1.0), "60%: SkewScout keeps").startswith("not held (-19.00 points")
  assert about(result(), "60%: SkewScout sends at most").startswith(
    "not held (0.75 times as much as the claim asks for"
  )
  assert about(result(), "100%: SkewScout sends at most").startswith("held")  # T_0 = 50% is poor
  assert about(result(), "with less skew").startswith("undecided")  # equal savings
  text = report.render(table, result())
  assert "| 60% | 95.30 | 1.20 kB | 40.0x (T_0 = 50%) | 95.30 | 20.0x | 2.0x of Oracle |" in text


def test_the_oracle_is_known_only_when_all_thetas_were_run():
  table = TABLES["004.fig8"]
  result = invented(table, lambda _: 95.0, bytes=lambda label: 60.0 if "Scout" in label else 300.0)
  claim = "20%: SkewScout sends at most 1.5 times the Oracle's bytes"
  assert texts(table, result)[claim].startswith("held")
  name = "20%, T_0 = 50%"
  result.cells[name] = result.cells[name]._replace(state="diverged", runs={})
  assert texts(table, result)[claim].startswith("held")  # it is no candidate
  result.cells[name] = result.cells[name]._replace(state="pending")
  assert texts(table, result)[claim] == f"undecided: {name} has not been run"


def test_results_are_stored_as_json():
  result = invented(FIGURE_5, lambda label: None if label == "BN, DGC, IID" else 50.0)
  stored = json.loads(json.dumps(as_json(result)))
  assert from_json(stored) == result
  texts = json.loads(json.dumps(stored).replace('"top1": 50.0', '"top1": "much"'))
  for damaged in ({}, {**stored, "cells": {"a": {}}}, {**stored, "cells": None}, texts):
    with pytest.raises(ValueError, match="no recorded table"):
      from_json(damaged)


def test_answers_to_each_example_are_compared():
  """Two seeds answer 8 examples; the covariances are those of the shares of correct seeds."""
  table = TABLES["000.1"]._replace(cells=TABLES["000.1"].cells[:2])
  answers = {"R = 0.0": ["11100000", "11000000"], "R = 0.1": ["11111000", "11111000"]}

  def contender(cell, known=True):
    runs = []
    for seed, bits in enumerate(answers[cell.label]):
      evaluation = {"classes": [{"examples": 6}, {"examples": 2}]}
      if known:
        evaluation["correct"] = base64.b64encode(bytes([int(bits, 2)])).decode()
      summary = {"top1": bits.count("1") / 8, "bytes_up": 1, "bytes_down": 1, "seconds": 1.0}
      runs.append(SeedRun(seed, Path("run"), [], summary, evaluation))
    return Contender(cell.name, "", {}, tuple(runs), "done")

  contenders = {cell.name: contender(cell) for cell in table.cells}
  made = dict.fromkeys(MADE, "x")
  result = collect(table, "small", contenders, made)
  shares = 100 * np.array([[1, 1, 0.5, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]])
  np.testing.assert_allclose(result.covariance, np.cov(shares), atol=1e-4)
  assert (result.tested, result.chance) == (8, 75.0)
  assert from_json(json.loads(json.dumps(as_json(result)))) == result
  found = verdict(table, Claim("", rising("R = 0.0", "R = 0.1")), result).margin
  differences = shares[1] - shares[0]  # the seeds differ by 25 and 37.5 points
  error = 1.645 * np.std(differences, ddof=1) / math.sqrt(8), 6.314 * 6.25
  assert found.mean - found.low == pytest.approx(math.hypot(*error), rel=1e-3)
  first = table.cells[0]
  some = {**contenders, first.name: contender(first, known=False)}
  assert collect(table, "small", some, made).covariance == []


def test_a_table_is_rendered_with_deviations_and_reasons():
  table = TABLES["004.fig1.lenet"]
  top1 = {cell.label: 70.0 - i for i, cell in enumerate(table.cells)}
  text = report.render(table, invented(table, {**top1, "DGC, IID": None}.get))
  assert "| BSP, IID | 77.40 | 70.30 ± 0.30 | - | - |" in text
  assert "| Gaia, non-IID | 10.00 | 67.30 ± 0.30 | 67.40 | 3.00 |" in text
  assert "| DGC, IID | 80.30 | diverged |" in text
  assert "- DGC, IID: the loss became infinite." in text
  assert "3 seeds, 8 min 00 s of training; 2026-01-01, c, m, v. `run`" in text
  assert "run at scale small: lenet, cifar10, 5 clients (004.fig1.lenet)" in text
  for note in table.notes:
    assert note in text


def test_all_results_name_what_was_not_measured():
  one = invented(FIGURE_5, lambda label: 50.0)
  old = one._replace(cells={"an old label": next(iter(one.cells.values()))})
  assert "GN, BSP, non-IID has not been run" in report.all_results(TABLES, [old])
  page = report.all_results(TABLES, [one, one._replace(table="gone")])
  assert "| 004.fig5 | small | 16 of 16 | 3 |" in page
  assert "- 000: 000.1, 000.2, 000.3, 000.cases\n- 001: 001.1, 001.2" in page
  assert "004.fig5," not in page.partition("Not measured")[2].partition("#")[0]
  everything = [invented(table, lambda label: 50.0) for table in TABLES.values()]
  assert "All tables were measured." in report.all_results(TABLES, everything)


def test_savings_are_those_of_degrees_without_missing_runs():
  table = TABLES["004.fig8"]
  result = invented(table, lambda _: 70.0, bytes=lambda label: 60.0 if "Scout" in label else 600.0)
  assert re.findall(r"^\| (\d+%) \|", report.render(table, result), re.MULTILINE) == [
    "20%", "60%", "100%"
  ]  # fmt: skip
  missing = result.cells["60%, SkewScout"]._replace(state="pending", runs={})
  some = result._replace(cells={**result.cells, "60%, SkewScout": missing})
  text = report.render(table, some)
  assert re.findall(r"^\| (\d+%) \|", text, re.MULTILINE) == ["20%", "100%"]
