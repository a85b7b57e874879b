"""A study's plan: rounds from the effort, stored once, extended with the stored effort."""

import json
import re

import pytest

from fedjax_norm.errors import UserError
from fedjax_norm.options import make
from fedjax_norm.study.planning import plan_text, probe
from fedjax_norm.study.planning.budget import SHARE, Cost
from fedjax_norm.study.planning.config import FLAGS
from fedjax_norm.study.planning.plan import load_or_make, read_plan
from fedjax_norm.study.running import workers

SMALL = {
  "data": "synthetic:classes=3,train=90,test=30,size=6",
  "clients": 3,
  "batch_size": 8,
  "workers": 1,
  "host_devices": 2,
}


def config(**options):
  return make(FLAGS, **SMALL, **options)


@pytest.fixture
def measured(monkeypatch):
  """Measuring a contender returns planted times; the fixture is the list of what was measured."""
  calls = []

  def measure(config, task, rounds):
    calls.append((config.norm, config.method, getattr(config, "local_steps", None)))
    return Cost(1.0, 2.0, 0.01, 0.05)

  monkeypatch.setattr(probe, "measure", measure)
  return calls


def test_a_dry_run_says_what_a_study_beyond_its_budget_would_take(measured):
  options = {"norms": "bn,gn,ln", "algorithms": "fedavg", "local_steps": "1", "budget": "10s"}
  with pytest.raises(UserError, match=r"give --budget=\d+m, or compare less: fewer --norms"):
    load_or_make(config(**options), None)
  plan = load_or_make(config(**options, dry_run=True), None)
  note = plan_text.excess(plan)
  (minutes,) = re.findall(r"would be refused: .* give --budget=(\d+)m, or compare less", note)
  assert plan.seconds <= 60 * int(minutes) * SHARE
  assert not plan_text.excess(load_or_make(config(**options | {"budget": f"{minutes}m"}), None))


def test_a_plan_says_what_the_data_is(measured, tmp_path):
  plan = load_or_make(config(norms="bn,gn", algorithms="fedavg", local_steps="1"), None)
  rows = plan_text.how(plan)
  assert rows["classes"] == "3"
  assert rows["clients"].startswith("3 (--partition=classes --classes_per_client=1) with ")
  both = config(
    norms="gn", algorithms="fedavg", local_steps="1", partitions="dirichlet:alpha=0.5,iid"
  )
  assert "clients" not in plan_text.how(load_or_make(both, None))  # each setting has others
  one = config(norms="gn", algorithms="fedavg", local_steps="1", partitions="iid")
  assert "clients" in plan_text.how(load_or_make(one, tmp_path))
  assert "clients" not in plan_text.how(load_or_make(both, tmp_path))  # one more


def test_effort_becomes_rounds_of_every_method():
  plan = load_or_make(
    config(norms="gn", algorithms="fedavg,ssgd,asgd", local_steps="1,10", steps=40), None
  )
  rounds = {cell.label: (cell.rounds, cell.eval_every) for cell in plan.cells}
  assert rounds == {
    "gn, fedavg, 1 local step": (40, 4),
    "gn, fedavg, 10 local steps": (4, 1),
    "gn, ssgd": (40, 4),
    "gn, asgd": (120, 12),  # a round is one of three clients' step
  }
  assert plan.search.steps == (40, 40)  # four rounds of ten local steps
  assert [plan.rounds(plan.cells[0], steps) for steps in (10, 20, 40)] == [10, 20, 40]
  assert not plan.costs


def test_every_run_has_four_rounds_or_more(measured, tmp_path):
  steps = {"norms": "gn", "algorithms": "fedavg", "local_steps": "1,10"}
  plan = load_or_make(config(**steps, steps=100), tmp_path)
  assert plan.rungs == (40, 50)
  assert [[plan.rounds(cell, steps) for steps in plan.rungs] for cell in plan.cells] == [
    [40, 50],
    [4, 5],
  ]
  grown = load_or_make(config(**steps | {"local_steps": "1,10,11"}, steps=100), tmp_path)
  assert grown.rungs == plan.rungs
  assert grown.cells[2].rounds == round(100 / 11)
  grown = load_or_make(config(**steps | {"local_steps": "1,10,20"}, steps=100), tmp_path)
  assert "40 local steps, would have 2 rounds, fewer than 4" in grown.cells[3].reason
  plan = load_or_make(config(**steps, steps=20), None)
  assert (plan.cells[0].rounds, plan.rungs) == (20, (5, 10))  # an impossible one does not count
  assert plan.cells[1].reason.endswith("give a new study --steps=40 or more.")
  plan = load_or_make(config(**steps, steps=40, lrs="0.1"), None)
  assert [cell.reason for cell in plan.cells] == [None, None]
  with pytest.raises(UserError, match="even 80 local steps"):
    load_or_make(config(**steps, budget="10s"), None)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (
      {"freeze_round": 5},
      "--freeze_round counts rounds, .* give a share such as 25%, half or auto",
    ),
    ({"norms": "fixbn:freeze_round=5,gn"}, "--freeze_round counts rounds"),
    ({"lr_schedule": "step", "lr_boundaries": (0.5, 20.0)}, "give shares of the run"),
    ({"lr_warmup_rounds": 3}, "--lr_warmup_rounds counts rounds, .* drop it"),
    ({"measure": "r2"}, "r2 is not measured here; choose one of top1"),
    ({"algorithms": "asgd", "drift": "label"}, "asgd has no option drift"),
  ],
)
def test_what_does_not_fit_a_study_is_refused(options, words):
  with pytest.raises(UserError, match=words):
    load_or_make(config(**{"norms": "fixbn", "steps": 40} | options), None)


def test_lengths_without_rounds_are_shares_of_every_run():
  options = {"norms": "fixbn", "freeze_round": "auto", "steps": 40, "local_steps": "1"}
  options |= {"lr_schedule": "step", "lr_boundaries": (0.5,), "algorithms": "fedavg"}
  plan = load_or_make(config(**options), None)
  assert plan.cells[0].config(rounds=8).rates(8).tolist()[3:5] == pytest.approx([0.02, 0.002])


def test_the_default_is_ten_local_steps_and_one(measured):
  plan = load_or_make(config(), None)
  assert [cell.name for cell in plan.cells[:3]] == [
    "bn-fedavg-1-classes",
    "bn-fedavg-10-classes",
    "bn-scaffold-1-classes",
  ]
  assert len(plan.cells) == 12
  assert (plan.measure, plan.score, plan.seeds) == ("top1", "best", 3)
  # Once for each algorithm and number of local steps, with the first norm.
  methods = [("bn", name, steps) for name in ("fedavg", "scaffold") for steps in (1, 10)]
  assert sorted(measured) == methods
  assert plan.seconds <= SHARE * 300
  flags = plan.cells[0].flags
  assert flags["validation_share"] == 0.15
  assert flags["evaluate_clients"] == 3


def test_a_stored_plan_is_kept_and_grows_with_its_effort(measured, tmp_path):
  options = {"norms": "gn", "algorithms": "fedavg", "local_steps": "10", "budget": "2m"}
  first = load_or_make(config(**options), tmp_path)
  assert read_plan(tmp_path) == first
  measured.clear()
  assert load_or_make(config(**options), tmp_path) == first
  more = load_or_make(config(**options | {"norms": "gn,bn", "algorithms": "fedavg,ssgd"}), tmp_path)
  assert not measured
  assert more.effort == first.effort
  assert more.cells[0] == first.cells[0]
  assert [cell.label for cell in more.cells[1:]] == [
    "gn, ssgd",
    "bn, fedavg, 10 local steps",
    "bn, ssgd",
  ]
  assert (
    load_or_make(config(**options), tmp_path).cells == more.cells
  )  # a process with the old list
  with pytest.raises(UserError, match=r"--budget was '2m' in this folder and is '3m' now"):
    load_or_make(config(**options | {"budget": "3m"}), tmp_path)
  with pytest.raises(UserError, match=r"--data_on was 'auto' in this folder and is 'host' now"):
    load_or_make(config(**options | {"data_on": "host"}), tmp_path)
  with pytest.raises(UserError, match=r"--momentum was 0.9 in this folder and is 0.5 now"):
    load_or_make(config(**options, momentum=0.5), tmp_path)
  assert load_or_make(config(**options, target=0.5), tmp_path).cells == more.cells


def test_more_seeds_train_the_contenders_again(measured, tmp_path):
  options = {"norms": "gn", "algorithms": "fedavg", "local_steps": "10"}
  first = load_or_make(config(**options, seeds=2), tmp_path)
  outcome = tmp_path / "cells" / f"{first.cells[0].name}.json"
  outcome.parent.mkdir()
  outcome.write_text('{"seeds": 2}')
  assert workers.is_finished(first, tmp_path, first.cells[0])
  plan = load_or_make(config(**options, seeds=4), tmp_path)
  assert plan.seeds == 4
  assert plan.cells[0].seconds > first.cells[0].seconds
  assert not workers.is_finished(plan, tmp_path, plan.cells[0])


def test_combinations_that_contradict_themselves_are_impossible():
  plan = load_or_make(
    config(norms="fixup,gn,fedbn", algorithms="fedavg,ssgd", local_steps="2", steps=20), None
  )
  reasons = {cell.label: cell.reason for cell in plan.cells if cell.reason}
  assert set(reasons) == {"fixup, fedavg, 2 local steps", "fixup, ssgd", "fedbn, ssgd"}
  assert {cell.setting for cell in plan.cells} == {"classes"}
  assert reasons["fedbn, ssgd"] == "ssgd has no option fedbn."
  assert "Fixup needs residual branches" in reasons["fixup, ssgd"]
  with pytest.raises(UserError, match="no contender can be trained: Fixup needs"):
    load_or_make(config(norms="fixup", algorithms="fedavg", steps=20), None)


def test_options_go_where_they_have_an_effect():
  shared = {"norms": "gn,bn", "algorithms": "fedavg", "local_steps": "2", "steps": 20}
  plan = load_or_make(config(**shared, groups=4), None)
  assert [cell.flags.get("groups") for cell in plan.cells] == [4, None]
  with pytest.raises(UserError, match="--brn_r_max does nothing here"):
    load_or_make(config(**shared, brn_r_max=2.0), None)


def test_a_search_needs_validation_examples():
  with pytest.raises(UserError, match="give a single rate with --lrs"):
    load_or_make(config(norms="gn", steps=40, validation_share=None), None)
  plan = load_or_make(config(norms="gn", steps=40, validation_share=None, lrs="0.1"), None)
  assert plan.rates == (0.1,)


def test_settings_are_named_by_their_partitions():
  plan = load_or_make(
    config(norms="gn", algorithms="ssgd", steps=20, partitions="dirichlet:alpha=0.5,iid"), None
  )
  assert [cell.setting for cell in plan.cells] == ["dirichlet, alpha 0.5", "iid"]
  assert plan.cells[0].flags["alpha"] == 0.5


def test_paths_in_the_plan_are_absolute(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "nodes.csv").write_text("")
  options = {"norms": "gn", "algorithms": "ssgd", "steps": 20, "network": "nodes.csv"}
  plan = load_or_make(config(**options), None)
  assert plan.options["network"].startswith(f"{tmp_path}/nodes.csv")
  assert plan.cells[0].flags["network"] == f"{tmp_path}/nodes.csv"


def test_a_study_of_one_seed_cannot_get_more(measured, tmp_path):
  options = {"norms": "gn", "algorithms": "ssgd"}
  load_or_make(config(**options, seeds=1), tmp_path)
  with pytest.raises(UserError, match="one seed cannot get more"):
    load_or_make(config(**options, seeds=2), tmp_path)


def test_missing_data_is_an_error_of_the_study():
  with pytest.raises(UserError, match="no folder 'nowhere'"):
    load_or_make(make(FLAGS, data="folder:nowhere", norms="gn", steps=20), None)


def test_a_plan_of_another_version_is_refused(tmp_path):
  (tmp_path / "study.json").write_text(json.dumps({"format": 0}))
  with pytest.raises(UserError, match="another version"):
    read_plan(tmp_path)
