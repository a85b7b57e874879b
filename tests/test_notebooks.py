"""The notebooks run from top to bottom in their reduced setting, and what they say holds there."""

import json
import re
import runpy
from pathlib import Path

import nbformat
import numpy as np
import pytest
from helpers.binaries import PYTHONPATH

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
BUILD = runpy.run_path(str(ROOT / "notebooks" / "build.py"))

# What a run is asked at its end, by a cell that is appended to it: an expression for JSON.
QUESTIONS = {
  "01_norms_as_axes": """{
    "shared": {name: int(mask.sum()) for name, mask in shared.items()},
    "across_examples": [n for n, mask in shared.items() if mask.any((1, 2)).sum() > 1],
    "distance": {
      name: {layer: float((values**2).mean() ** 0.5) for layer, values in layers.items()}
      for name, layers in distance.items()
    },
    "top1": {name: outcome.rows[-1]["top1"] for name, (_, outcome) in runs.items()},
    "frozen_at": runs["fixbn"][1].frozen_at,
    "by_company": by_company,
    "moved": moved,
    "affine_error": affine_error,
    "traffic": traffic,
  }""",
  "02_batch_statistics": """{
    "distance": float(distance),
    "top1": {name: outcome.rows[-1]["top1"] for name, outcome in outcomes.items()},
    "bytes": {name: outcome.rows[-1]["bytes_up"] for name, outcome in outcomes.items()},
    "bright": {name: outcome.rows[-1]["clients_top1"] for name, outcome in bright.items()},
  }""",
  "03_how_much_to_talk": """{
    "sent": {name: sent(outcome) for name, outcome in skewed.items()},
    "thetas": {name: [row["theta"] for row in o.rows] for name, o in scouted.items()},
    "grid": GRID,
    "seconds": {name: o.rows[-1]["simulated_seconds"] for name, o in skewed.items()},
  }""",
  "04_split_learning_and_leakage": """{
    "differences": differences,
    "rows": {cut: runs[cut].rows[-1] for cut in CUTS},
    "leaks": measured.rows,
    "directions": [int(np.argmax(directions[i] @ directions.T - np.eye(len(labels))[i] * 9))
                   for i in range(len(labels))],
    "labels": labels.tolist(),
  }""",
  "05_your_own": """{
    "counts": counts.tolist(),
    "names": list(names),
    "up": {name: outcome.rows[-1]["bytes_up"] for name, outcome in signs.items()},
    "down": {name: outcome.rows[-1]["bytes_down"] for name, outcome in signs.items()},
    "top1": {name: outcome.rows[-1]["top1"] for name, outcome in signs.items()},
    "adam": outcome.rows[-1]["top1"],
    "own": {norm: sorted(o.variables) for norm, o in nets.items()},
  }""",
}
# The number of pictures in each notebook.
IMAGES = dict(zip(QUESTIONS, (6, 4, 4, 3, 2), strict=True))


def images(notebook: nbformat.NotebookNode) -> int:
  """The pictures among a notebook's outputs."""
  outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
  return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_is_built_from_its_script(name):
  path = ROOT / "notebooks" / f"{name}.ipynb"
  notebook, built = nbformat.read(path, as_version=4), BUILD["assemble"](name)
  nbformat.validate(notebook)
  sources = [
    [(cell.id, cell.cell_type, cell.source) for cell in n.cells] for n in (notebook, built)
  ]
  assert sources[0] == sources[1], f"run python notebooks/build.py {name}"
  assert "colab.research.google.com/github/" in notebook.cells[0].source
  assert f"{name}.ipynb" in notebook.cells[0].source


@pytest.mark.parametrize("name", NAMES)
def test_is_committed_with_the_outputs_of_one_run(name):
  path = ROOT / "notebooks" / f"{name}.ipynb"
  notebook = nbformat.read(path, as_version=4)
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
  assert images(notebook) == IMAGES[name]
  assert not any(cell.metadata for cell in notebook.cells)  # nor times of execution
  outputs = [output for cell in code for output in cell.outputs]
  assert {output.output_type for output in outputs} <= {"stream", "display_data"}
  assert {output.name for output in outputs if "name" in output} == {"stdout"}  # no warnings
  assert not re.search(rf"/(home|root|tmp|Users)/|{re.escape(str(ROOT))}", json.dumps(outputs))
  assert path.stat().st_size < 600_000


def table(name: str, first: str) -> dict[str, dict[str, str]]:
  """A printed table of a committed notebook: row -> column -> cell, by the first column's head."""
  notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
  outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
  (text, *_) = [o.text for o in outputs if o.get("text", "").startswith(first)]
  head, _, *rows = [re.split(r"  +", line.strip()) for line in text.strip().splitlines()]
  return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def percent(rows: dict[str, dict[str, str]], column: str) -> dict[str, float]:
  return {name: float(cells[column].rstrip("%")) for name, cells in rows.items()}


def test_what_the_second_notebook_says_stands_in_its_table():
  rows = table("02_batch_statistics", "policy")
  whole, own = percent(rows, "all classes"), percent(rows, "own classes")
  assert min(whole, key=whole.get) == max(own, key=own.get) == "fedbn"
  assert np.ptp([whole[name] for name in ("mean", "moments", "recalibrate")]) < 1
  assert all(-1.5 < whole[name] - whole["mean"] <= 0.5 for name in ("fixbn", "gn"))
  worst = percent(rows, "worst client")
  assert min(worst, key=worst.get) == "local"


def test_what_the_third_notebook_says_stands_in_its_table():
  rows = table("03_how_much_to_talk", "contender")
  iid, lost = percent(rows, "iid"), percent(rows, "lost to skew")
  assert all(value > iid["bsp"] - 1 for value in iid.values())
  sent = {name: float(cells["sent"].split()[0]) for name, cells in rows.items()}  # all in MB
  assert set(sorted(sent, key=sent.get)[:2]) == set(sorted(lost, key=lost.get)[-2:])
  assert sent["dgc, 90%"] > sent["fedavg, 5"]
  assert lost["dgc, 90%"] > lost["fedavg, 5"]


def norms_as_axes_measures_the_table_of_norms(answer):
  n, s, c = 4, 5, 6
  assert answer["shared"] == {
    "bn": n * s,
    "gn, 2 groups": s * c // 2,
    "ln": s * c,
    "in": s,
    "cn": c,
    "fixbn, frozen": 1,
  }
  assert answer["across_examples"] == ["bn"]


def norms_as_axes_shows_bn_failing_and_why(answer):
  top1 = answer["top1"]
  assert top1["gn"] > top1["bn"] + 0.2
  assert top1["sync_bn"] > top1["bn"] + 0.2
  skewed, iid = answer["distance"]["one class each"], answer["distance"]["iid"]
  assert skewed["Norm_0"] > 2 * iid["Norm_0"]
  # The same weights, other statistics: a norm within the example cannot tell, bn can.
  by_company = answer["by_company"]
  assert np.ptp(list(by_company["gn"].values())) < 1e-6
  assert by_company["bn"]["batches of one class"] > by_company["bn"]["running statistics"] + 0.1


def norms_as_axes_shows_what_the_freeze_does(answer):
  assert answer["frozen_at"]
  moved = answer["moved"]
  assert moved["fixbn after the freeze"] < 1e-5
  assert moved["bn"] > 1e-2
  assert answer["affine_error"] < 1e-5


def norms_as_axes_shows_what_is_sent(answer):
  traffic = {
    name: dict(zip(("up", "down", "trips"), row, strict=True))
    for name, row in answer["traffic"].items()
  }
  assert {name for name, row in traffic.items() if row["trips"] > 1} == {"sync_bn"}
  assert traffic["bn"]["up"] == traffic["fixbn"]["up"] > traffic["gn"]["up"]
  # Frozen statistics no longer come back: what is left is gn's weights.
  assert traffic["fixbn, frozen"]["up"] == traffic["gn"]["up"]


def policies_of_statistics_share_the_weights_and_differ_where_images_do(answer):
  assert answer["distance"] == 0
  assert answer["top1"]["local"] != answer["top1"]["mean"]
  assert answer["bytes"]["mean"] == answer["bytes"]["moments"] > answer["bytes"]["local"]
  assert answer["bright"]["fedbn"] > answer["bright"]["mean"] + 0.1


def talking_less_is_cheaper_and_skewscout_follows_the_skew(answer):
  assert answer["sent"]["gaia, 20%"] < answer["sent"]["bsp"] / 2
  assert answer["seconds"]["gaia, 20%"] < answer["seconds"]["bsp"]
  thetas = answer["thetas"]
  assert {theta for values in thetas.values() for theta in values} <= set(
    np.float32(answer["grid"])
  )
  assert max(thetas["iid"]) > max(thetas["two classes each"][1:])


def a_cut_changes_the_costs_and_not_the_model(answer):
  assert max(answer["differences"].values()) < 1e-5
  early, late = answer["rows"]["conv1"], answer["rows"]["conv3"]
  assert early["client_flops"] < late["client_flops"]
  assert early["client_flops"] + early["server_flops"] == pytest.approx(
    late["client_flops"] + late["server_flops"], rel=0.05
  )
  for row in answer["leaks"]:
    assert row["labels_by_known"] > row["labels_chance"] + 0.2


def gradients_at_the_cut_point_in_the_direction_of_their_class(answer):
  labels = np.array(answer["labels"])
  assert (labels[answer["directions"]] == labels).mean() > 0.6


def own_data_model_and_algorithm_are_what_the_user_wrote(answer):
  counts = dict(zip(answer["names"], np.array(answer["counts"]) > 0, strict=True))
  assert np.flatnonzero(counts["north"]).tolist() == [0, 1, 2, 3, 4]
  assert np.flatnonzero(counts["west"]).tolist() == [0, 6, 7, 8, 9]
  # A sign is a byte and a weight four; the sizes of changes add a little.
  assert 0.25 < answer["up"]["sign averaging"] / answer["up"]["fedavg"] < 0.26
  assert answer["down"]["sign averaging"] == answer["down"]["fedavg"]
  assert answer["top1"]["sign averaging"] > 0.15
  assert answer["adam"] > 0.3
  assert answer["own"] == {"bn": ["batch_stats", "params"], "gn": ["params"]}


CHECKS = {
  "01_norms_as_axes": (
    norms_as_axes_measures_the_table_of_norms,
    norms_as_axes_shows_bn_failing_and_why,
    norms_as_axes_shows_what_the_freeze_does,
    norms_as_axes_shows_what_is_sent,
  ),
  "02_batch_statistics": (policies_of_statistics_share_the_weights_and_differ_where_images_do,),
  "03_how_much_to_talk": (talking_less_is_cheaper_and_skewscout_follows_the_skew,),
  "04_split_learning_and_leakage": (
    a_cut_changes_the_costs_and_not_the_model,
    gradients_at_the_cut_point_in_the_direction_of_their_class,
  ),
  "05_your_own": (own_data_model_and_algorithm_are_what_the_user_wrote,),
}


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
  """One test for each notebook, so that it runs once however tests are spread over workers."""
  notebook = BUILD["assemble"](name)
  question = f"import json\nprint(json.dumps({QUESTIONS[name]}))"
  notebook.cells.append(nbformat.v4.new_code_cell(question))
  monkeypatch.setenv("FEDJAX_NORM_REDUCED", "1")
  monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
    monkeypatch.setenv(variable, str(tmp_path / variable))
  BUILD["execute"](notebook, tmp_path)
  assert images(notebook) == IMAGES[name]
  answer = json.loads(notebook.cells[-1].outputs[0].text)
  for check in CHECKS[name]:
    check(answer)
