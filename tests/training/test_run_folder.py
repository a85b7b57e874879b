"""The folder of a run: which folders can be opened and resumed, its configuration and summary."""

import importlib.metadata
import json
import math
import os
import subprocess

import jax
import pytest

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage import provenance
from fedjax_norm.training.storage.run_folder import FORMAT, RunFolder, read_config

CONFIG = {"clients": 10, "norm": "gn", "lr": 0.1, "stages": (1, 2)}


def test_a_new_folder_contains_only_the_config_and_the_lock(tmp_path):
  with RunFolder.open(tmp_path / "a" / "b", CONFIG) as run:
    assert not run.resumed
    assert run.rows() == []
    assert run.read_summary() is None
  assert sorted(os.listdir(tmp_path / "a" / "b")) == ["config.json", "run.lock"]
  saved = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
  [entry] = saved.pop("made_by")
  assert saved == {**CONFIG, "stages": [1, 2], "format": FORMAT}
  assert (entry["fedjax_norm"], entry["jax"]) == (provenance.version(), jax.__version__)
  assert entry["commit"] == provenance.commit()
  assert entry["command"]
  assert read_config(tmp_path / "a" / "b") == {**CONFIG, "stages": [1, 2]}
  assert RunFolder.open(tmp_path / "a" / "b", CONFIG).resumed


@pytest.mark.parametrize(
  ("now", "sentences"),
  [
    ({**CONFIG, "clients": 20}, ["--clients was 10 in this folder and is 20 now; pass"]),
    ({**CONFIG, "lr": 1, "norm": "bn"}, ["--lr was 0.1 in", 'now; --norm was "gn" in']),
    ({**CONFIG, "seed": 0}, ["--seed was absent in this folder and is 0 now"]),
    ({"clients": 10, "norm": "gn", "lr": 0.1}, ["--stages was [1, 2] in", "is absent now"]),
    ({**CONFIG, "clients": 10.0}, ["--clients was 10 in this folder and is 10.0 now"]),
  ],
)
def test_another_config_is_refused_with_the_names_of_its_flags(tmp_path, now, sentences):
  RunFolder.open(tmp_path, CONFIG)
  before = (tmp_path / "config.json").read_bytes()
  with pytest.raises(UserError) as caught:
    RunFolder.open(tmp_path, now)
  assert all(sentence in str(caught.value) for sentence in sentences)
  assert "--workdir" in str(caught.value)
  assert (tmp_path / "config.json").read_bytes() == before


def test_nan_in_a_config_equals_itself(tmp_path):
  RunFolder.open(tmp_path, {"clip": math.nan})
  assert RunFolder.open(tmp_path, {"clip": math.nan}).resumed


def test_a_run_is_never_overwritten(tmp_path):
  RunFolder.open(tmp_path, CONFIG)
  with pytest.raises(UserError, match="already holds a run"):
    RunFolder.open(tmp_path, CONFIG, resume=False)


def test_folders_that_cannot_be_used(tmp_path):
  file = tmp_path / "file"
  file.write_text("x")
  for path in (file, file / "below"):
    with pytest.raises(UserError, match="is a file"):
      RunFolder.open(path, CONFIG)
  with pytest.raises(UserError, match="no run folder"):
    RunFolder.open(tmp_path, CONFIG)
  broken = tmp_path / "broken"
  broken.mkdir()
  for content in ('{"clients": 1', "[1]", ""):
    (broken / "config.json").write_text(content)
    for resume in (True, False):
      with pytest.raises(UserError, match="damaged"):
        RunFolder.open(broken, CONFIG, resume=resume)
    assert (broken / "config.json").read_text() == content


def test_a_folder_that_is_not_writable(tmp_path, monkeypatch):
  # os.access is replaced because root can write to every folder.
  monkeypatch.setattr(os, "access", lambda *_: False)
  with pytest.raises(UserError, match="not writable"):
    RunFolder.open(tmp_path, CONFIG)


def test_a_kill_before_the_config_is_complete_leaves_a_usable_folder(tmp_path):
  for name in ("config.json.tmp", "run.lock", "run.lock.json", "run.lock.json.tmp"):
    (tmp_path / name).write_text('{"cli')
  with RunFolder.open(tmp_path, CONFIG) as run:
    assert not run.resumed
  assert "config.json" in os.listdir(tmp_path)


def test_summary_is_replaced_atomically(tmp_path, monkeypatch):
  run = RunFolder.open(tmp_path, CONFIG)
  run.write_summary({"top1": 0.5})
  with pytest.raises(TypeError):
    run.write_summary({"top1": object()})

  def killed(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
      run.write_summary({"top1": 0.6})
  assert run.read_summary() == {"top1": 0.5}
  run.write_summary({"top1": 1 / 3})
  assert run.read_summary() == {"top1": 1 / 3}
  (tmp_path / "summary.json").write_text("{")
  with pytest.raises(UserError, match="damaged"):
    run.read_summary()


def test_a_resumed_run_records_every_version_and_command(tmp_path, monkeypatch):
  """Another version or command gets an entry; only another date gets none."""
  for version, date in (("1.0", "Monday"), ("1.0", "Tuesday"), ("1.1", "Wednesday")):
    entry = {"fedjax_norm": version, "date": date}
    monkeypatch.setattr(provenance, "entry", lambda entry=entry: entry)
    with RunFolder.open(tmp_path, CONFIG):
      pass
  entries = json.loads((tmp_path / "config.json").read_text())["made_by"]
  assert [entry["date"] for entry in entries] == ["Monday", "Wednesday"]
  assert read_config(tmp_path) == {**CONFIG, "stages": [1, 2]}


@pytest.mark.parametrize(
  ("made_by", "version"), [({"made_by": [{"fedjax_norm": "0.2.0"}]}, "0.2.0"), ({}, "an older one")]
)
def test_a_run_of_an_older_version_is_read_and_not_resumed(tmp_path, made_by, version):
  old = json.dumps({**CONFIG, "format": 2, **made_by})
  (tmp_path / "config.json").write_text(old)
  assert read_config(tmp_path)["clients"] == 10
  with pytest.raises(UserError, match=rf"version of fedjax_norm \({version}\).*use that version"):
    RunFolder.open(tmp_path, CONFIG)
  assert (tmp_path / "config.json").read_text() == old


def test_the_commit_is_that_of_a_checkout_of_this_package(tmp_path):
  def git(*words):
    command = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

  setup = tmp_path / "setup.cfg"
  setup.write_text("[metadata]\nname = fedjax_norm\nversion = 1\n")
  assert provenance.commit(setup) == "none"  # an unpacked archive
  git("init")
  git("add", ".")
  git("commit", "-m", "first")
  git("tag", "-m", "a tag", "v1")
  head = git("rev-parse", "HEAD")
  assert head.startswith(provenance.commit(setup))
  setup.write_text("[metadata]\nname = fedjax_norm\nversion = 2\n")
  assert provenance.commit(setup) == f"{git('rev-parse', '--short', 'HEAD')}-dirty"
  inside = tmp_path / "vendored"
  inside.mkdir()
  (inside / "setup.cfg").write_text("[metadata]\nname = fedjax_norm\nversion = 1\n")
  assert provenance.commit(inside / "setup.cfg") == "none"
  setup.write_text("[metadata]\nname = another\nversion = 1\n")
  assert provenance.commit(setup) == "none"


def test_the_version_of_a_checkout_is_that_of_its_setup_cfg(tmp_path):
  setup = tmp_path / "setup.cfg"
  setup.write_text("[metadata]\nname = fedjax_norm\nversion = 9.8%\n")
  assert provenance.version(setup) == "9.8%"
  setup.write_text(
    "[metadata]\nname = another\nversion = 1\n"
  )  # a package is installed below another project
  assert provenance.version(setup) == importlib.metadata.version("fedjax_norm")
