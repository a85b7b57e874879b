"""Builds the notebooks from the scripts of this folder: ``python notebooks/build.py [NAME ...]``.

A script is in jupytext's percent format. Its notebook also has a Colab badge, a cell that installs
the package, and the outputs of a full run.
"""

import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

FOLDER = Path(__file__).parent
REPOSITORY = "OWNER/fedjax_norm"  # BUILD.md says what to do about OWNER
BADGE = (
  "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
  f"(https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{{name}}.ipynb)"
)
INSTALL = f"""\
import importlib.util
import shutil

if importlib.util.find_spec("fedjax_norm") is None:  # as on Colab
  EXTRA = "[cuda12]" if shutil.which("nvidia-smi") else ""
  %pip install --quiet "fedjax_norm{{EXTRA}} @ git+https://github.com/{REPOSITORY}\""""


def assemble(name: str) -> NotebookNode:
  """Returns the notebook of a script, without outputs."""
  script = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
  title, *cells = script.cells
  cells = [new_markdown_cell(BADGE.format(name=name)), title, new_code_cell(INSTALL), *cells]
  for i, cell in enumerate(cells):
    cell.id, cell.metadata = f"{name[:2]}-{i:02d}", {}
  kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
  return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def execute(notebook: NotebookNode, folder: Path) -> None:
  """Runs all cells of a notebook in a folder, with this checkout's package."""
  paths = os.pathsep.join((str(FOLDER.parent), os.environ.get("PYTHONPATH", "")))
  resources = {"metadata": {"path": str(folder)}}
  client = NotebookClient(
    notebook, timeout=1200, kernel_name="python3", resources=resources, record_timing=False
  )
  client.execute(env={**os.environ, "PYTHONPATH": paths})


def main() -> None:
  """Executes the notebooks with the given names, or all, and writes them."""
  for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("[0-9]*.py")):
    notebook = assemble(name)
    execute(notebook, FOLDER)
    notebook.metadata.pop("language_info", None)  # the version of Python
    nbformat.validate(notebook)
    nbformat.write(notebook, FOLDER / f"{name}.ipynb")
    print(f"written: {FOLDER / name}.ipynb")


if __name__ == "__main__":
  main()
