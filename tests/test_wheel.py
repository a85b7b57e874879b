"""What is in the wheel and the sdist, and how commands work without a checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers.binaries import ROOT

pytestmark = pytest.mark.long


def run(*words: str, cwd: Path, **variables: str) -> str:
  environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
  done = subprocess.run(
    words, cwd=cwd, env=environment | variables, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
  """The wheel and the sdist of a copy of the package, built as a user's tool builds them."""
  copy = tmp_path_factory.mktemp("build")
  for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, copy)
  for name in ("fedjax_norm", "experiments"):
    shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
  code = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"
  (copy / "dist").mkdir()
  run(sys.executable, "-c", code, cwd=copy)
  (wheel,), (sdist,) = (copy / "dist").glob("*.whl"), (copy / "dist").glob("*.tar.gz")
  return wheel, sdist


def test_the_wheel_holds_the_package_alone(files):
  wheel, sdist = files
  with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
  assert {name.split("/")[0].split("-")[0] for name in names} == {"fedjax_norm"}
  for name in ("py.typed", "presets/digits_dirichlet.flags", "study/report/template.html"):
    assert f"fedjax_norm/{name}" in names
  with tarfile.open(sdist) as archive:
    members = {name.partition("/")[2] for name in archive.getnames()}
  assert {"setup.cfg", "README.md", "LICENSE", "fedjax_norm/py.typed"} <= members


def test_an_installed_wheel_works_outside_a_checkout(files, tmp_path):
  wheel, _ = files
  run(sys.executable, "-m", "venv", str(tmp_path / "venv"), cwd=tmp_path)
  (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
  python = str(tmp_path / "venv" / "bin" / "python")
  run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
  # The dependencies are those of the tests' environment, without the project's own files there.
  (packages / "dependencies.pth").write_text(
    f"import sys; sys.path.append({sysconfig.get_paths()['purelib']!r})\n"
  )
  script = str(tmp_path / "venv" / "bin" / "fedjax-norm")
  assert str(packages) in run(python, "-c", "import fedjax_norm; print(fedjax_norm)", cwd=tmp_path)
  assert "  study " in run(script, cwd=tmp_path)
  listed = run(script, "fedavg", "--preset=list", cwd=tmp_path)
  assert "digits_dirichlet" in listed
  assert "python -m experiments" not in listed
  flags = ("--preset=digits_dirichlet", "--rounds=2", "--eval_every=1", "--workdir=run")
  out = run(script, "fedavg", *flags, "--noprogress", cwd=tmp_path)
  assert "result" in out
  assert (tmp_path / "run" / "summary.json").is_file()
  helped = run(script, "fedavg", "--help", cwd=tmp_path)
  assert "fedjax-norm fedavg --norm=fixbn --clients=10" in helped
  assert "python -m experiments" not in helped
