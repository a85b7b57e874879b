"""Records of the papers' tables: what replaces them, and RESULTS.md, which is made of them."""

import json

import numpy as np
import pytest
from helpers.binaries import ROOT
from helpers.paper_tables import invented

from fedjax_norm.cli.commands import paper
from fedjax_norm.errors import UserError
from fedjax_norm.papers import report
from fedjax_norm.papers.paper_flags import PaperFlags
from fedjax_norm.papers.registry import TABLES, choose_cells
from fedjax_norm.papers.results import CellResult, fitted, merged
from fedjax_norm.study.contender import Contender, SeedRun


@pytest.fixture(autouse=True)
def _devices(monkeypatch):
  """The tests have more devices than the command asks for."""
  monkeypatch.setattr(paper.client_mapping, "use_host_devices", lambda count: None)


def test_recorded_cells_with_further_runs_stay(tmp_path):
  folder, table = tmp_path / "results", TABLES["000.2"]
  folder.mkdir()
  full = invented(table, lambda _: 50.0)._replace(covariance=np.eye(len(table.cells)).tolist())

  def recorded(result):
    paper._record([result], folder)
    return paper.read_records(folder)[0]

  assert recorded(full) == full
  later = full._replace(made={**full.made, "date": "later"})
  assert recorded(later) == full  # the same values
  gn = full.cells["GN"]
  no_gn = {**full.cells, "GN": gn._replace(state="pending", runs={})}
  other_seed = {**full.cells, "GN": gn._replace(runs={3: gn.runs[0], 4: gn.runs[1], 5: gn.runs[2]})}
  for cells in (no_gn, other_seed):
    assert recorded(later._replace(cells=cells)) == full
  more = full._replace(cells={**full.cells, "GN": gn._replace(runs={**gn.runs, 3: gn.runs[0]})})
  assert recorded(more) == more
  (tmp_path / "RESULTS.md").write_text("# Results\n\nSomebody's.")
  with pytest.raises(UserError, match=r"RESULTS.md was not written by --record"):
    paper._check_records(folder)


def test_a_record_is_completed_on_another_machine():
  table = TABLES["000.2"]
  full = invented(table, lambda _: 50.0)._replace(covariance=np.eye(len(table.cells)).tolist())
  nothing = CellResult("pending", None, 0.0, {})
  halves = [
    full._replace(
      made={**full.made, "machine": machine},
      cells={
        label: one if (label in ("BN", "GN")) == first else nothing._replace(settings=one.settings)
        for label, one in full.cells.items()
      },
    )
    for machine, first in (("one", True), ("other", False))
  ]
  both = merged(halves[1], halves[0])
  assert both.cells == full.cells
  assert both.covariance == []
  assert both.made == {**full.made, "machine": "one; other"}
  # A cell that has other settings now is not taken over, and is no result of the table.
  changed = full.cells["GN"]._replace(settings="other")
  stale = halves[0]._replace(cells={**halves[0].cells, "GN": changed})
  assert not merged(halves[1], stale).cells["GN"].runs
  assert fitted(table, full) is full
  assert not fitted(table, stale).cells["GN"].runs
  assert fitted(table, stale).cells["BN"] == full.cells["BN"]


def test_settings_are_all_that_decides_a_run():
  cell = TABLES["002.norms"].cells[0]
  assert cell.settings("small") == cell._replace(label="other").settings("small")
  others = (
    cell._replace(options={**cell.options, "momentum": 0.5}),
    cell._replace(rates=(0.5,)),
    cell._replace(scales={**cell.scales, "small": {**cell.scales["small"], "clients": 7}}),
  )
  assert len({one.settings("small") for one in (cell, *others)}) == 4
  assert others[2].settings("full") == cell.settings("full")


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
