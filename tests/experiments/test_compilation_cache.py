"""Compiled programs that are saved for later starts."""

import os
import subprocess
import sys

import jax
import pytest
from helpers.binaries import PYTHONPATH, SMALL
from helpers.run_bits import read

from fedjax_norm.cli.compilation_cache import set_compilation_cache


@pytest.mark.long
def test_compiled_programs_are_saved_for_the_next_start(tmp_path):
  """Programs are in the user's cache, the numbers are the same, and cut ones are made again."""

  def run(name):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "PYTHONW"))}
    command = (sys.executable, "-m", "experiments.fedavg", *SMALL, "--rounds=2")
    done = subprocess.run(
      [*command, f"--workdir={tmp_path / name}"],
      env={**environment, "XDG_CACHE_HOME": str(tmp_path / "user"), "PYTHONPATH": PYTHONPATH},
      capture_output=True,
      text=True,
      check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")  # no warning of JAX

  def programs():
    return {f.name: f for f in (tmp_path / "user").rglob("*-cache")}

  run("first")
  first = {name: file.stat().st_size for name, file in programs().items()}
  interval = next(file for name, file in programs().items() if name.startswith("jit_interval-"))
  # As if the process had been killed while it saved the program.
  interval.write_bytes(interval.read_bytes()[:1000])
  interval.with_name(interval.name.removesuffix("-cache") + "-atime").unlink()
  run("second")
  assert programs().keys() == first.keys()  # nothing else was compiled again
  assert interval.stat().st_size > 1000
  assert read(tmp_path / "first") == read(tmp_path / "second")


def test_the_folder_of_compiled_programs(tmp_path, monkeypatch, capsys):
  updates = {}
  monkeypatch.setattr(jax.config, "update", updates.__setitem__)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "the environment's")
  set_compilation_cache(True)
  assert updates == {}
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  set_compilation_cache(True)
  assert updates["jax_compilation_cache_dir"].startswith(str(tmp_path / "user"))
  updates.clear()
  set_compilation_cache(False)
  assert updates == {"jax_enable_compilation_cache": False}
  updates.clear()
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  set_compilation_cache(True)
  assert updates == {}
  assert "note: compiled programs are not saved;" in capsys.readouterr().out


def test_only_incomplete_programs_are_removed(tmp_path, monkeypatch):
  monkeypatch.setattr(jax.config, "update", lambda *_: None)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  set_compilation_cache(True)
  (folder,) = (tmp_path / "fedjax_norm").iterdir()
  names = {"whole-cache", "whole-atime", ".lockfile"}
  for name in {*names, "cut-cache"}:
    (folder / name).write_text("")
  set_compilation_cache(True)
  assert {file.name for file in folder.iterdir()} == names
