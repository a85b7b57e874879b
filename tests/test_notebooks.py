"""The notebooks run from top to bottom in their reduced setting, and what they say holds there."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from helpers.binaries import PYTHONPATH
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

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
  }"""
}
IMAGES = {"01_norms_as_axes": 6}


def images(notebook: nbformat.NotebookNode) -> int:
  """The pictures among a notebook's outputs."""
  outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
  return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
  """Executes a notebook once: (what it answers, its number of pictures)."""
  results = {}

  def run(name: str):
    if name in results:
      return results[name]
    folder = tmp_path_factory.mktemp(name)
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    question = f"import json\nprint(json.dumps({QUESTIONS.get(name)}))"
    notebook.cells.append(nbformat.v4.new_code_cell(question))
    client = NotebookClient(
      notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    with pytest.MonkeyPatch.context() as patch:
      patch.setenv("FEDJAX_NORM_REDUCED", "1")
      patch.setenv("PYTHONPATH", PYTHONPATH)
      patch.setenv("JAX_PLATFORMS", "cpu")
      for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        patch.setenv(variable, str(folder / variable))
      client.execute()
    answer = json.loads(notebook.cells[-1].outputs[0].text)
    results[name] = answer, images(notebook)
    return results[name]

  return run


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_without_outputs(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
  for cell in notebook.cells:
    if cell.cell_type == "code":
      assert cell.execution_count is None, cell.id
      assert cell.outputs == [], cell.id
      assert not cell.metadata, cell.id  # nor times of execution


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, executed):
  _, pictures = executed(path.stem)
  assert pictures == IMAGES[path.stem]


@pytest.mark.long
def test_norms_as_axes_measures_the_table_of_norms(executed):
  answer, _ = executed("01_norms_as_axes")
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


@pytest.mark.long
def test_norms_as_axes_shows_bn_failing_and_why(executed):
  answer, _ = executed("01_norms_as_axes")
  top1 = answer["top1"]
  assert top1["gn"] > top1["bn"] + 0.2
  assert top1["sync_bn"] > top1["bn"] + 0.2
  skewed, iid = answer["distance"]["one class each"], answer["distance"]["iid"]
  assert skewed["Norm_0"] > 2 * iid["Norm_0"]
  # The same weights, other statistics: a norm within the example cannot tell, bn can.
  by_company = answer["by_company"]
  assert np.ptp(list(by_company["gn"].values())) < 1e-6
  assert by_company["bn"]["batches of one class"] > by_company["bn"]["running statistics"] + 0.1


@pytest.mark.long
def test_norms_as_axes_shows_what_the_freeze_does(executed):
  answer, _ = executed("01_norms_as_axes")
  assert answer["frozen_at"]
  moved = answer["moved"]
  assert moved["fixbn after the freeze"] < 1e-5
  assert moved["bn"] > 1e-2
  assert answer["affine_error"] < 1e-5


@pytest.mark.long
def test_norms_as_axes_shows_what_is_sent(executed):
  answer, _ = executed("01_norms_as_axes")
  traffic = {
    name: dict(zip(("up", "down", "trips"), row, strict=True))
    for name, row in answer["traffic"].items()
  }
  assert {name for name, row in traffic.items() if row["trips"] > 1} == {"sync_bn"}
  assert traffic["bn"]["up"] == traffic["fixbn"]["up"] > traffic["gn"]["up"]
  # Frozen statistics no longer come back: what is left is gn's weights.
  assert traffic["fixbn, frozen"]["up"] == traffic["gn"]["up"]
