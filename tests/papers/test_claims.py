"""Claims: their margins, their verdicts, and the paper's values."""

import math

import pytest
from helpers.paper_tables import tables_of

from fedjax_norm.cli.commands import paper
from fedjax_norm.papers import tables


@pytest.mark.parametrize(
  ("margin", "accuracies", "points"),
  [
    (tables.rising, (10, 12, 15), 2),
    (tables.rising, (10, 15, 14), -1),
    (tables.best, (10, 9, 7), 1),
    (tables.best, (10, 9, 12), -2),
    (tables.spread_above(3.0), (10, 15, 12), 2),
    (tables.below(15.0), (11,), 4),
    (tables.below(15.0), (80,), -65),
    (tables.near(5.0), (88, 90), 3),
    (tables.near(5.0), (80, 90), -5),
    (tables.near(5.0), (95, 90), 10),
    (tables.falling, (15, 12, 10), 2),
    (tables.falling, (15, 10, 12), -2),
    (tables.least(2.0), (5, 3, 9), 1),
    (tables.least(2.0), (5, 1, 9), -1),
    (tables.all_within(2.0), (90, 91), 1),
    (tables.all_within(2.0), (91, 88), -1),
    (tables.all_near(2.0), (90, 95, 89), 1),
    (tables.all_near(2.0), (90, 95, 80), -8),
  ],
)
def test_margins(margin, accuracies, points):
  assert margin(*accuracies) == points


def test_verdicts():
  claim = tables.Claim("b above a", ("a", "b"), tables.rising)
  assert paper.judge(claim, {"a": 40.0, "b": 45.5}) == "holds by 5.50 points"
  assert paper.judge(claim, {"a": 45.5, "b": 40.0}) == "does not hold by 5.50 points"
  assert "undecided" in paper.judge(claim, {"a": math.nan, "b": 1.0})
  # Two standard errors of a difference at 50% on 10,000 images are 200 sqrt(2 / 4 / 10,000) = 1.41.
  assert paper.judge(claim, {"a": 49.3, "b": 50.7}, 10_000).endswith("errors of the test set")
  assert paper.judge(claim, {"a": 49.29, "b": 50.71}, 10_000) == "holds by 1.42 points"
  assert paper.judge(claim, {"a": 49.3}) == "not in the text"
  loss = claim._replace(measure="loss")  # negative where a run beats its reference
  assert paper.judge(loss, {"a": -3.0, "b": 1.0}, 10_000) == "holds by 4.00 points"
  saving = claim._replace(measure="saving")
  assert paper.judge(saving, {"a": 4.0, "b": 5.5}, 10_000) == "holds: 4.00, 5.50 times"
  assert "accuracy is lost" in paper.judge(saving, {"a": math.nan, "b": 5.5})


def test_one_claim_of_paper_000_fails_on_its_own_values():
  """BN does not fall at every step of R; all other claims hold."""
  verdicts = {
    claim.text: paper.judge(claim, {cell.label: cell.paper[0] for cell in table.cells})
    for table in tables_of("000")
    for claim in table.claims
  }
  failed = {text for text, verdict in verdicts.items() if not verdict.startswith("holds")}
  assert failed == {"local BN's accuracy falls at every step of R from 0.5 to 0"}
  assert len(verdicts) == 10


def test_claims_of_paper_004_on_its_own_values():
  """Three claims about figure 1 fail; losses follow from the printed values."""
  failed = {
    (table.name.rpartition(".")[2], claim.text)
    for table in tables_of("004")
    if table.name.startswith("004.fig1.")
    for claim in table.claims
    if not paper.judge(claim, table.paper_values(claim.measure)).startswith("holds")
  }
  keeps = "{} keeps BSP's accuracy on IID data".format
  assert failed == {
    ("googlenet", keeps("FedAvg")),
    ("resnet20", keeps("FedAvg")),
    ("resnet20", keeps("DGC")),
  }
  losses = paper.TABLES["004.fig5"].paper_values("loss")
  assert losses["BN, DGC, non-IID"] == pytest.approx(68.9)
  assert paper.TABLES["004.9"].paper_values("loss") == pytest.approx(
    {"BN, non-IID": 13.4, "BatchReNorm, non-IID": 2.8}
  )
  # A printed loss takes precedence over the difference of printed accuracies.
  assert paper.TABLES["004.fig19"].paper_values("loss")["K = 5, FedAvg, non-IID"] == 17.0
