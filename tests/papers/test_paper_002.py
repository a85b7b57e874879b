"""Paper 002's tables: everything but the norm is the same, and each cell has its own rate."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from helpers.paper_tables import by_label, invented, resolve, tables_of

from fedjax_norm.cli import train
from fedjax_norm.cli.commands import paper
from fedjax_norm.options import of
from fedjax_norm.papers import plan, report
from fedjax_norm.papers.claims import verdict
from fedjax_norm.papers.paper_flags import PaperFlags
from fedjax_norm.papers.registry import TABLES
from fedjax_norm.papers.results import collect
from fedjax_norm.papers.tables import EFFORT, RUNGS
from fedjax_norm.study.results.study_files import read_study


def differences(a, b):
  return {one.name for one in of(type(a)) if getattr(a, one.name) != getattr(b, one.name)}


@pytest.mark.parametrize("scale", ["full", "small", "smoke"])
def test_all_contenders_have_the_same_effort(scale):
  for table in tables_of("002"):
    configs = {cell.label: cell.config(scale) for cell in table.cells}
    assert {cell.rates for cell in table.cells} == {(0.03, 0.1, 0.3)}
    assert all(config.validation_share == 0.1 for config in configs.values())
    lengths = {(config.local_epochs, config.rounds) for config in configs.values()}
    if table.name != "002.segmentation":
      lengths = {config.local_steps * config.rounds // 100 for config in configs.values()}
    assert len(lengths) == 1, table.name
    if table.name.startswith("002.grid"):
      for label, config in configs.items():
        other = configs[f"{label.rpartition(', ')[0]}, GN"]
        assert differences(config, other) <= {"norm"}, label
      axes = {"norm", "local_steps", "rounds", "eval_every", "partition", "alpha", "min_size",
              "classes_per_client"}  # fmt: skip
      first = next(iter(configs.values()))
      assert set().union(*(differences(first, one) for one in configs.values())) == axes


def test_segmentation_is_judged_by_its_mean_iou():
  table = TABLES["002.segmentation"]
  ious = {"BN": 40.0, "GN": 45.0, "FixBN": 50.0}
  constant = invented(table, lambda _: math.nan, mean_iou=ious.get)._replace(tested=0, chance=10.0)
  assert {verdict(table, claim, constant).state for claim in table.claims} == {"undecided"}
  result = constant._replace(
    cells={
      label: cell._replace(runs={seed: {"mean_iou": ious[label] + 0.1 * seed} for seed in range(3)})
      for label, cell in constant.cells.items()
    }
  )
  assert [verdict(table, claim, result).state for claim in table.claims] == ["held", "held"]
  text = report.render(table, result)
  assert (
    "| cell | mean IoU, paper | mean IoU, ours | pixels right, paper | pixels right, ours |" in text
  )
  assert "| BN | - | 40.10 ± 0.10 |" in text
  guessing = result._replace(chance=50.1)
  reasons = {verdict(table, claim, guessing).reason for claim in table.claims}
  assert reasons == {"FixBN is within the error of guessing (50.1%)"}
  paths = {cell.config("full").data for cell in table.cells}
  assert {str(plan.with_data_dir(one, "/data")["data"]) for one in paths} == {
    "masks:/data/cityscapes"
  }


@pytest.mark.parametrize("scale", ["full", "small", "smoke"])
def test_also_the_shortest_trial_of_a_rate_is_possible(scale):
  for table in (*tables_of("002"), TABLES["000.cases"]):
    for cell in table.cells:
      config = resolve(cell, scale)
      for steps in RUNGS:
        rounds = round(config.rounds * steps / EFFORT)
        trial = dataclasses.replace(config, rounds=rounds)
        train.check(trial)
        if config.norm == "fixbn":
          freeze = trial.freeze(rounds, 1)
          assert 1 <= (freeze.round or freeze.latest) < rounds


def test_tables_share_the_cells_of_one_setting():
  names = [{cell.name for cell in TABLES[f"002.{name}"].cells} for name in ("norms", "momentum")]
  grid = {cell.name for cell in TABLES["002.grid.lenet"].cells}
  assert len(names[0] & grid) == len(names[1] & grid) == 3
  assert len({cell.name for cell in TABLES["002.freeze"].cells} & grid) == 1


def test_a_claim_that_training_explodes_is_held_by_runs_that_diverge():
  table = TABLES["001.rates"]
  claim = table.claims[0]
  label = "Fixup 1k, GN's rates"
  accuracies = {cell.label: 70.0 for cell in table.cells}
  exploded = invented(table, {**accuracies, label: None}.get)
  assert verdict(table, claim, exploded).state == "held"
  own = exploded.cells["Fixup 1k"]
  for other in (own._replace(runs={}, state="diverged"), own._replace(runs={0: own.runs[0]})):
    cells = {**exploded.cells, "Fixup 1k": other}
    assert verdict(table, claim, exploded._replace(cells=cells)).state == "undecided"
  some = exploded.cells[label]._replace(runs={0: own.runs[0]})
  cells = {**exploded.cells, label: some}
  assert "with some of the seeds" in verdict(table, claim, exploded._replace(cells=cells)).reason
  assert verdict(table, claim, invented(table, {**accuracies, label: 50.0}.get)).state == "held"
  assert verdict(table, claim, invented(table, {**accuracies, label: 75.0}.get)).state == "not held"
  smoke = invented(table, {**accuracies, label: None}.get, scale="smoke")
  assert verdict(table, claim, smoke).state == "undecided"


@pytest.mark.long
def test_each_cell_trains_with_the_rate_that_was_best_on_validation_examples(
  monkeypatch, tmp_path, capsys
):
  monkeypatch.setattr(paper.client_mapping, "use_host_devices", lambda count: None)
  long = [by_label("002.grid.lenet")[f"100 steps, IID, {norm}"] for norm in ("FixBN", "GN")]
  cells = tuple(
    one._replace(rates=(0.1, 1e30), scales={"smoke": {**one.scales["smoke"], "local_steps": 4}})
    for one in long
  )
  table = TABLES["002.freeze"]._replace(cells=cells, claims=())
  monkeypatch.setitem(TABLES, "002.freeze", table)
  flags = PaperFlags(table="002.freeze", seeds=2, workdir=str(tmp_path), workers=1, progress=False)
  paper.main(flags)
  contenders = {one.name: one for one in read_study(tmp_path)}
  made = paper._made(table, contenders, flags)
  result = collect(table, "smoke", contenders, made)
  out = capsys.readouterr().out
  for cell in cells:
    tuning = contenders[cell.name].tuning
    edge = f" ({tuning.edge})" if tuning.edge else ""
    assert result.cells[cell.label].rate == f"{tuning.lr:g}{edge}"
    assert f"| {tuning.lr:g}{edge} |" in out
    for seed in (0, 1):
      saved = json.loads(Path(tmp_path, "runs", cell.name, f"seed_{seed}/config.json").read_text())
      assert (saved["lr"], saved["rounds"]) == (tuning.lr, 8)
    assert {trial.steps for trial in tuning.trials} == {1, 2}  # quarters of a run
    first = [trial for trial in tuning.trials if trial.steps == 1]
    assert next(trial for trial in first if trial.lr == 1e30).value is None
    long = {trial.lr: trial.value for trial in tuning.trials if trial.steps == 2}
    assert long[tuning.lr] == max(long.values())
