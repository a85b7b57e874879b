"""Results are read from folders, named by the options in force, and written as tables."""

import csv
import json
import shutil

import numpy as np
import pytest
from helpers.contenders import contender, tuning
from helpers.finished_runs import write_run, write_study

from fedjax_norm.errors import UserError
from fedjax_norm.study.advice import factors
from fedjax_norm.study.advice.recommendation import recommend
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.results import study_files, table
from fedjax_norm.training.finished_run import load_run


def names(*folders):
  return [one.name for one in study_files.read_runs(folders)]


def test_finished_runs_are_named_by_the_options_in_force(tmp_path):
  fedavg = write_run(tmp_path / "a", "fedavg", [0.5, 0.6], norm="gn", local_steps=6)
  ssgd = write_run(tmp_path / "b", "ssgd", [0.7], norm="bn", eval_batch_size=64)
  more = write_run(tmp_path / "c", "fedavg", [0.7], norm="gn", groups=2, prox=0.1)
  assert names(fedavg, ssgd) == ["gn, fedavg, local_steps=6", "bn, ssgd"]
  assert names(fedavg, more) == ["local_steps=6, prox=0", "groups=2, local_steps=10, prox=0.1"]
  first, second = map(factors.norm, study_files.read_runs([fedavg, more]))
  assert (first, second) == ("gn", "gn groups=2")
  assert factors.algorithm(study_files.read_runs([fedavg, more])[1]) == "fedavg prox=0.1"
  # The freeze of FixBN is named for FixBN only, and None never.
  fixbn = write_run(tmp_path / "d", "fedavg", [0.7], norm="fixbn", freeze_round=9)
  assert names(ssgd, fixbn)[1] == "fixbn, fedavg, freeze_round=9, local_steps=10"
  other = write_run(tmp_path / "e", "ssgd", [0.7], norm="bn", eval_batch_size=32)
  assert names(ssgd, other) == ["eval_batch_size=64", "eval_batch_size=32"]
  with pytest.raises(UserError, match="two of the runs have the same options; name each run once"):
    names(ssgd, ssgd)


def test_finished_runs_are_read_with_their_seeds_and_settings(tmp_path):
  folders = [
    write_run(tmp_path / "a", "fedavg", [0.5, 0.6], norm="bn", fedbn=True, partition="iid"),
    write_run(tmp_path / "b", "fedavg", [0.7], norm="gn", fedbn=True, partition="dirichlet"),
  ]
  before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
  first, second = study_files.read_runs(folders)
  assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == before
  assert (first.setting, second.setting) == ("iid", "dirichlet")
  assert [run.seed for run in first.runs] == [0, 1]
  assert [run.summary["top1"] for run in first.runs] == [0.5, 0.6]
  assert first.options["algorithm"] == "fedavg"
  assert first.command == f"python -m x --workdir={folders[0]}"
  assert (first.single_model, second.single_model) == (False, True)  # gn has no statistics
  criterion = study_files.runs_criterion([first, second])
  assert criterion[:4] == ("top1", "best", None, "fedavg")


def test_what_cannot_be_compared_is_said_in_a_sentence(tmp_path):
  folder = write_run(tmp_path / "a", "fedavg", [0.5])
  [one] = study_files.read_runs([folder])
  with pytest.raises(UserError, match="--measure is 'auroc', which not all"):
    study_files.runs_criterion([one], "auroc")
  del one.runs[0].summary["best_round"]
  assert study_files.runs_criterion([one]).score == "last"
  with pytest.raises(UserError, match="--score=best needs runs with validation"):
    study_files.runs_criterion([one], score="best")
  loss = contender("a", [0.5], measure="r2")
  with pytest.raises(UserError, match="different test measures, R² and top-1"):
    study_files.runs_criterion([one, loss])
  (folder / "summary.json").write_text("{")
  with pytest.raises(UserError, match=r"summary\.json is damaged"):
    study_files.read_runs([folder])
  with pytest.raises(UserError, match="holds no run"):
    study_files.read_runs([tmp_path])


@pytest.fixture
def study(tmp_path):
  return write_study(tmp_path)


def test_runs_of_the_papers_tables_are_no_study_to_rank(study):
  content = json.loads((study / "study.json").read_text())
  content["cells"][0]["options"] = {}
  (study / "study.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match="papers' tables"):
    study_files.study_criterion(study)


def test_a_study_is_read_from_its_folder(study):
  done, diverged, impossible, pending = study_files.read_study(study)
  assert (done.state, len(done.runs), done.path) == ("done", 2, study / "runs" / "a")
  assert done.tuning == tuning({0.1: 0.5, 0.03: 0.4})
  assert (diverged.state, diverged.reason, diverged.runs) == ("diverged", "it overflowed.", ())
  assert (impossible.state, impossible.reason) == ("impossible", "it does not fit.")
  assert pending.state == "pending"
  assert study_files.study_criterion(study, 0.9)[:4] == ("top1", "best", 0.9, "fedavg")
  outcome = json.loads((study / "cells" / "a.json").read_text())
  (study / "cells" / "a.json").write_text(json.dumps(outcome | {"seeds": 1}))  # the plan has two
  assert study_files.read_study(study)[0].state == "pending"
  for damaged in ({}, outcome | {"state": "unknown"}):
    (study / "cells" / "a.json").write_text(json.dumps(damaged))
    found = study_files.read_study(study)[0]
    assert (found.state, found.runs) == ("failed", ())
    assert "a.json is damaged" in found.reason


def test_a_damaged_or_continued_run_does_not_prevent_the_answer(study):
  path = study / "runs" / "a"

  def reason():
    found, *others = study_files.read_study(study)
    assert (found.state, found.runs, others[0].state) == ("failed", (), "diverged")
    return found.reason

  for file in (path / "seed_1/metrics.csv", path / "seed_0/summary.json", path / "summary.json"):
    content = file.read_bytes()
    file.write_text("nonsense\n1,2\n")
    assert reason().endswith(
      f"; delete the folder {file.parent}, and the same command trains it again."
    )
    file.write_bytes(content)
  for folder in (path / "seed_1", path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rounds": 120}))
    assert f"the run in {folder} has 120 rounds, but those of the study have 100" in reason()
  shutil.rmtree(path / "seed_1")
  (path / "config.json").write_text(json.dumps(config))
  assert reason().startswith("1 of 2 runs are there; start the same command of the study again")


def test_numbers_by_client_and_class_are_those_of_the_round_of_the_score(study):
  runs = {"clients": {"Bern": 0.9, "Oslo": 0.8}, "unseen": {"Rome": 0.5}, "recalls": {"a": 0.4}}
  one = contender("gn, fedavg", [0.5, 0.6], **runs, values={"best_top5": 1.0, "top5": 1.0})
  best, *others = one.runs
  clients = [{**entry, "top1": entry["top1"] - 0.2} for entry in best.evaluation["clients"]]
  one = one._replace(
    runs=(best._replace(best_evaluation=best.evaluation | {"clients": clients}), *others)
  )

  def lines(name, score):
    criterion = Criterion(score=score)
    study_files.write(study, [one], recommend([one], criterion))
    with (study / name).open() as file:
      return [list(row.values()) for row in csv.DictReader(file)]

  means = {row[2]: row[3:5] + row[6:] for row in lines("clients.csv", "last")}
  assert means == {n: [u, str(m), "2"] for n, u, m in (
    ("Bern", "0", 0.9), ("Oslo", "0", 0.8), ("Rome", "1", 0.5),
  )}  # fmt: skip
  values = {row[2]: float(row[4]) for row in lines("clients.csv", "best")}
  assert values == pytest.approx({"Bern": 0.8, "Oslo": 0.7, "Rome": 0.4})
  assert lines("classes.csv", "best") == [["gn, fedavg", "iid", "a", "0.4", "0.0", "2"]]
  assert not any(name.startswith("top5") for name in (study / "results.csv").read_text().split(","))
  assert "70.0%" in table.render([one], Criterion())
  assert "80.0%" in table.render([one], Criterion(score="mean"))


def test_a_study_is_no_run_to_load(study):
  with pytest.raises(UserError, match="holds a study and no run; pass the folder of one of its"):
    load_run(study)


def test_a_measure_has_the_title_of_its_task():
  pairs = contender("gn, fedavg", [0.9], values={"threshold": 0.3})
  assert study_files.titled(Criterion(), [pairs]).form.title == "pairs right"
  assert study_files.titled(Criterion(), [contender("gn, fedavg", [0.9])]).form.title == "top-1"
  assert study_files.titled(Criterion("loss"), []).form.title == "test loss"


def test_runs_in_the_folder_of_a_study_are_tuned(study, tmp_path):
  run = study / "runs" / "a"
  alone = write_run(tmp_path / "elsewhere" / "runs" / "a", "ssgd", [0.5])
  chosen = study_files.read_study(study)[0].tuning
  for path in (run, run / "seed_0"):
    whole, other = study_files.read_runs([path, alone])
    assert whole.tuning == chosen
    assert chosen is not None
    assert other.tuning is None
  (study / "cells" / "a.json").write_text("{")
  assert study_files.read_runs([run])[0].tuning is None


def test_the_files_have_every_number(study):
  members = study_files.read_study(study)
  recommendation = recommend(members, study_files.study_criterion(study))
  study_files.write(study, members, recommendation)
  content = json.loads((study / "results.json").read_text())
  with (study / "results.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [row["contender"] for row in rows] == [one["contender"] for one in content["contenders"]]
  first, found = rows[0], content["contenders"][0]
  assert (first["rank"], first["state"], first["lr"], first["runner_up"]) == (
    "1", "done", "0.1", "0.03",
  )  # fmt: skip
  assert first["options_norm"] == found["options"]["norm"] == "gn"
  scores = np.array([0.5, 0.6])
  for name, expected in (
    ("top1_best", scores.mean()),
    ("top1_last_std", scores.std(ddof=1)),
    ("top1_best_seeds_1", scores[1]),
    ("bytes_up", 1_000_000),
    ("examples", 5_500),  # 100 for the first evaluation, 200 for the second, ...
    ("target", scores.mean() - 0.01),
    ("target_seeds", 1),
    ("target_bytes", 600_000),
  ):
    assert float(first[name]) == pytest.approx(expected), name
  assert found["top1_best_seeds"] == {"0": 0.5, "1": 0.6}
  assert found["simulated_seconds"] is None
  assert first["simulated_seconds"] == ""
  assert rows[2]["rank"] == ""
  [setting] = content["recommendation"]["settings"]
  assert setting["best"] == "gn, fedavg"


def test_the_table_is_ranked_and_leaves_out_what_no_contender_has():
  members = [
    contender("bn, fedavg", [0.5, 0.6], clients={"Bern": 0.3, "Oslo": 0.9}),
    contender("gn, fedavg", [0.9, 0.95], tuning=tuning({0.1: 0.5, 0.03: 0.4}, "highest")),
    contender("fixbn, fedavg", [], state="diverged", reason="it overflowed."),
  ]
  text = table.render(members, Criterion(target=0.55))
  head, _, *lines = text.splitlines()
  assert head.split()[:5] == ["#", "contender", "top-1,", "best", "last"]
  assert "worst" in head
  assert "unseen" not in head
  assert "1  gn, fedavg     92.50% ± 3.54%  92.50%" in lines[0]
  assert "0.1 (0.03)" in lines[0]
  assert "600 kB (1/2)" in lines[1]
  assert " 30.0% " in lines[1]
  assert lines[2].startswith("-  fixbn, fedavg")
  notes = [line.split("  ")[-1].strip() for line in lines[:3]]
  assert notes == ["highest rate", "weak client Bern", "diverged"]
  assert not lines[3]
  legend = " ".join(lines[4:])
  assert " worst: " in legend
  assert "unseen" not in legend
  assert "to: bytes until an evaluation first reached this value" in legend
  assert max(map(len, text.splitlines())) <= 120
  long = members[0]._replace(name=members[0].name + ", 10 local steps" * 2)
  head, _, *lines = table.render([long, *members[1:]], Criterion(target=0.55)).splitlines()
  assert [line.split()[-1] for line in lines[:3]] == ["1", "2", "3"]
  assert lines[3] == "1 highest rate; 2 weak client Bern; 3 diverged"
  plain = table.render([contender("gn, fedavg", [0.5])], Criterion(score="last"))
  assert "last: test value in the last round" in plain
  assert not {"±", "worst:", "lr (2nd):"} & set(plain.split())
