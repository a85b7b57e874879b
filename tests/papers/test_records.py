"""Records of the papers' tables: what replaces them, and RESULTS.md, which is made of them."""

import json

import pytest
from helpers.binaries import ROOT
from helpers.paper_tables import invented

from fedjax_norm.cli.commands import paper
from fedjax_norm.errors import UserError
from fedjax_norm.papers import report
from fedjax_norm.papers.paper_flags import PaperFlags
from fedjax_norm.papers.registry import TABLES, choose_cells
from fedjax_norm.study.contender import Contender, SeedRun


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
  """The tests have more devices than the command asks for."""
  monkeypatch.setattr(paper.client_mapping, "use_host_devices", lambda count: None)


def test_a_record_is_replaced_only_by_one_with_all_of_its_runs(tmp_path, capsys):
  folder, table = tmp_path / "results", TABLES["000.2"]
  folder.mkdir()
  full = invented(table, lambda _: 50.0)

  def recorded(result):
    paper._record([result], folder)
    return paper.read_records(folder)[0]

  assert recorded(full) == full
  assert recorded(full._replace(made={**full.made, "date": "later"})) == full  # the same values
  gn = full.cells["GN"]
  no_gn = {**full.cells, "GN": gn._replace(state="pending", runs={})}
  other_seed = {**full.cells, "GN": gn._replace(runs={3: gn.runs[0], 4: gn.runs[1], 5: gn.runs[2]})}
  for cells in (no_gn, other_seed):
    assert recorded(full._replace(cells=cells)) == full
    assert "stays" in capsys.readouterr().out
  more = full._replace(cells={**full.cells, "GN": gn._replace(runs={**gn.runs, 3: gn.runs[0]})})
  assert recorded(more) == more
  (tmp_path / "RESULTS.md").write_text("# Results\n\nSomebody's.")
  with pytest.raises(UserError, match=r"RESULTS.md was not written by --record"):
    paper._check_records(folder)


def test_cells_that_the_report_shows_have_the_settings_of_this_version(tmp_path, monkeypatch):
  table = TABLES["000.1"]
  cells = choose_cells([table], None)
  paper._make_plan([table], cells, PaperFlags(), 1, tmp_path)
  *rest, last = table.cells
  changed = {**last.scales, "smoke": {**last.scales["smoke"], "lr": 0.5}}
  other = table._replace(cells=(*rest, last._replace(scales=changed)))
  for one, fits in ((table, True), (other, False)):
    chosen = choose_cells([one], "R = 0.0")
    if fits:
      assert len(paper._make_plan([one], chosen, PaperFlags(), 1, tmp_path).cells) == 4
    else:
      with pytest.raises(UserError, match=r"ratio=0.5 with other settings"):
        paper._make_plan([one], chosen, PaperFlags(), 1, tmp_path)


def test_the_results_page_is_made_of_the_records():
  """RESULTS.md of this repository has what its folder ``results`` has, and nothing else."""
  records = paper.read_records(ROOT / "results")
  assert records
  assert (ROOT / "RESULTS.md").read_text() == report.all_results(TABLES, records)


def test_a_record_tells_by_which_commits_its_runs_were_made(tmp_path):
  table = TABLES["000.1"]
  contenders = {}
  for cell, day, of in zip(
    table.cells, "312", ({"commit": "b"}, {"commit": "a"}, {}), strict=False
  ):
    entry = {"fedjax_norm": "1.0", "jax": f"0.{day}", "date": f"2026-01-0{day}T10:00:00", **of}
    (tmp_path / day).mkdir()
    (tmp_path / day / "config.json").write_text(json.dumps({"made_by": [entry]}))
    run = SeedRun(0, tmp_path / day, [], {})
    contenders[cell.name] = Contender(cell.name, "", {}, (run,), "done")
  made = paper._made(table, contenders, PaperFlags())
  assert (made["date"], made["commit"]) == ("2026-01-01 to 2026-01-03", "commit a, unknown, b")
  assert made["versions"] == ", ".join(f"fedjax_norm 1.0, jax 0.{day}" for day in "123")
