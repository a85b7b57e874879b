"""``experiments.compare`` on finished runs: what it prints and writes, and what it refuses."""

import json
import re
from pathlib import Path

import pytest
from helpers.finished_runs import write_run, write_study

from fedjax_norm.cli.commands import compare
from fedjax_norm.cli.commands.compare import CompareFlags
from fedjax_norm.errors import UserError


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs():
  write_run(Path("gn"), "fedavg", [0.9, 0.92], {"sent": 300_000}, norm="gn", local_steps=6)
  write_run(Path("bn"), "ssgd", [0.5, 0.53], norm="bn")
  Path("mine").mkdir()
  Path("mine/report.html").write_text("a report of another program")
  return "gn", "bn"


def files(*folders):
  return {path: path.stat().st_mtime_ns for folder in folders for path in Path(folder).rglob("*")}


def test_runs_are_ranked_reported_and_left_alone(runs, capsys):
  before = files(*runs)
  for path in before:
    path.chmod(0o555 if path.is_dir() else 0o444)  # a colleague's
  compare.main(CompareFlags(title="Ours", target=0.6), *reversed(runs))
  out = capsys.readouterr().out
  assert files(*runs) == before
  assert out.index("gn, fedavg, local_steps=6") < out.index("bn, ssgd")  # ranked, not as given
  assert "91.00% ± 1.41%" in out
  assert "to 60.00%" in out
  assert "Which norm? Undecided: gn or bn" in out  # the algorithms differ as well
  assert "None" not in out
  assert out.endswith("report: compare/report.html\n")
  page = Path("compare/report.html").read_text()
  assert "<h1>Ours</h1>" in page
  assert "gn, fedavg, local_steps=6" in page
  results = json.loads(Path("compare/results.json").read_text())
  assert [row["top1_best"] for row in results["contenders"]] == pytest.approx([0.91, 0.515])
  assert {"curves.png", "pareto.png", "results.csv"} <= {p.name for p in Path("compare").iterdir()}
  # Without --output, an earlier comparison is kept; with it, an earlier one is replaced.
  assert "report: compare-2/report.html" in compare.compare(CompareFlags(), *runs)
  again = CompareFlags(output="compare", measure="loss", score="last")
  assert "test loss, last" in compare.compare(again, *runs)
  assert "Ours" not in Path("compare/report.html").read_text()


def test_runs_of_several_settings_keep_their_names_apart(runs):
  for data in ("folder:a", "folder:b"):
    write_run(Path(data), "ssgd", [0.5], norm="bn", data=data)
  compare.compare(CompareFlags(), "folder:a", "folder:b")
  text = Path("compare/report.html").read_text()
  for data in ("folder:a", "folder:b"):
    assert re.search(rf"<dt>[^<]*\({data}\)</dt><dd>{data}</dd>", text)


def test_what_is_off_by_default_is_named_where_it_is_on():
  for name, options in {
    "usual": {},
    "silo": {"batch_stats": "local"},
    "own": {"fedbn": True},
  }.items():
    saved = {"batch_stats": "local" if options else "mean", "fedbn": False, **options}
    write_run(Path(name), "fedavg", [0.5], norm="bn", **saved)
  text = compare.compare(CompareFlags(), "usual", "silo", "own")
  assert re.findall(r"^\d  (\S+)  ", text, re.M) == [
    "batch_stats=local",
    "batch_stats=mean",
    "fedbn",
  ]


@pytest.mark.parametrize(
  ("options", "paths", "message"),
  [
    ({}, ["gn"], "at least two runs"),
    ({}, ["gn", "gn"], "two of the runs have the same options"),
    ({}, ["gn", "nothing"], "nothing"),
    ({"target": 1.5}, ["gn", "bn"], "--target is 1.5; give an accuracy above 0 and up to 1"),
    ({"measure": "r2"}, ["gn", "bn"], "--measure is 'r2', which not all of these runs have"),
    ({"output": "c.png"}, ["gn", "bn"], "has to be a folder"),
    ({"output": "gn/report"}, ["gn", "bn"], "would be written into gn; pass another --output"),
    ({"output": "bn"}, ["gn", "bn"], "bn contains other files"),
    ({"output": "mine"}, ["gn", "bn"], "mine contains other files"),
  ],
)
def test_what_cannot_be_compared_is_one_sentence(runs, options, paths, message):
  before = files(".")
  with pytest.raises(UserError, match=message):
    compare.compare(CompareFlags(**options), *paths)
  assert files(".") == before


@pytest.mark.parametrize("name", ["summary.json", "metrics.csv", "config.json"])
def test_a_damaged_file_is_one_sentence(runs, name):
  file = Path("gn/seed_1", name)
  file.write_bytes(file.read_bytes()[:-30] + b"\0\0\n")
  with pytest.raises(UserError, match=f"{name} is damaged"):
    compare.compare(CompareFlags(), *runs)


def test_a_study_shows_its_answer():
  write_study(Path("study"))
  before = files("study")
  text = compare.compare(CompareFlags(target=0.55), "study")
  assert text.index("gn, fedavg") < text.index("in, fedavg")
  assert "Not ranked, because diverged" in text
  assert "top-1, last" in compare.compare(CompareFlags(score="last"), "study")
  assert files("study") == before
  with pytest.raises(UserError, match="study holds a study; name it alone"):
    compare.compare(CompareFlags(), "study", "study/runs/a")
