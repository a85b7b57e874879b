"""The worked examples of CONTRIBUTING.md, carried out in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.binaries import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = ("norm", "algorithm", "model", "data source")


def section(what: str) -> str:
  """Returns the text below the heading '## Add a <what>', up to the next heading."""
  match = re.search(rf"^## Add an? {what}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
  assert match
  return match[1]


def apply(path: Path, change: list[str]) -> None:
  """Applies one hunk of a diff, whose context occurs once in the file."""
  before = "\n".join(line[1:] for line in change if not line.startswith("+"))
  after = "\n".join(line[1:] for line in change if not line.startswith("-"))
  text = path.read_text(encoding="utf-8")
  assert text.count(before) == 1, f"{path.name} has {text.count(before)} times:\n{before}"
  path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
  """A copy of the repository with the new files and changes of all examples."""
  copy = tmp_path_factory.mktemp("contributing") / "repository"
  copy.mkdir()
  for name in ("fedjax_norm", "experiments", "tests", "benchmarks"):
    shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("README.md", "BUILD.md", "CONTRIBUTING.md", "pyproject.toml", "setup.cfg"):
    shutil.copy(ROOT / name, copy)
  for what in EXAMPLES:
    text = section(what)
    for path, code in re.findall(r"New file `([^`]+)`:\n\n```python\n(.*?)```", text, re.DOTALL):
      (copy / path).write_text(code, encoding="utf-8")
    for path, change in re.findall(r"```diff\n@@ (\S+) @@\n(.*?)```", text, re.DOTALL):
      apply(copy / path, change.splitlines())
  write_idx(copy / "mnist")
  return copy


def write_idx(folder: Path) -> None:
  """Writes small IDX files: for the data source's command, in place of the real MNIST."""
  folder.mkdir()
  for split, count in (("train", 40), ("t10k", 20)):
    labels = np.arange(count, dtype=np.uint8) % 10
    images = np.repeat(25 * labels, 64).reshape(count, 8, 8)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
      header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
      (folder / f"{split}-{kind}-ubyte").write_bytes(header + array.tobytes())


def run(folder: Path, command: str) -> subprocess.CompletedProcess:
  """Runs a command of the text in the copy, with this interpreter."""
  words = command.split()
  assert words[0] == "python"
  environment = {**os.environ, "PYTHONPATH": str(folder)}
  return subprocess.run(
    [sys.executable, *words[1:]], cwd=folder, env=environment, text=True, capture_output=True
  )


@pytest.mark.long
@pytest.mark.parametrize("what", EXAMPLES)
def test_an_example_works(changed, what):
  """Every command of an example succeeds; pytest fails if it finds no test."""
  text = section(what)
  commands = [
    line
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for line in block.splitlines()
  ]
  assert any("pytest" in command for command in commands)
  assert any("experiments" in command for command in commands)
  for command in commands:
    done = run(changed, command)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_examples_apply(changed):
  """The new files are there, and each is imported by the registry that its example changes."""
  new = re.findall(r"New file `([^`]+)`:", TEXT)
  assert len(new) >= 4
  for path in new:
    assert (changed / path).is_file()
    if path.startswith("fedjax_norm/"):
      registry = (changed / path).parent / "registry.py"
      assert re.search(rf"\b{Path(path).stem}\b", registry.read_text(encoding="utf-8"))
