"""Systems are run in turn; one that fails is told and not run again."""

import dataclasses
import json
import subprocess

import pytest

from benchmarks import measure, run, systems, workloads
from benchmarks.measure import Contender
from benchmarks.peers.job import Result
from benchmarks.systems import System, Unavailable

RESULT = Result(1.0, 2.0, [0.5, 0.25], compile=3.0, losses=[2.3], peak_mb=100.0)
(WORKLOAD,) = workloads.table("c", "full", accelerator=False)


@pytest.fixture
def contender(tmp_path):
  """Makes a system of a shell script in place of a Python interpreter; each call is noted."""

  def make(name: str, script: str) -> Contender:
    python = tmp_path / name
    python.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/calls\n{script}\n")
    python.chmod(0o755)
    return Contender(System(name, name, "torch_loop", ("",), ()), "", python)

  return make


def in_turn(contenders, tmp_path, repeats=2, timeout=60.0):
  said: list[str] = []
  job = WORKLOAD.job("nowhere", 1)
  found = measure.in_turn(
    "c", job, ("float32",), contenders, repeats, timeout, tmp_path, said.append
  )
  return list(found), said


def test_systems_alternate_and_results_come_back_whole(contender, tmp_path):
  answer = f"echo noise; echo 'RESULT {json.dumps(dataclasses.asdict(RESULT))}'; echo more"
  found, _ = in_turn([contender("one", answer), contender("two", answer)], tmp_path)
  assert (tmp_path / "calls").read_text().split() == ["one", "two", "one", "two"]
  assert [(m.system, m.repeat) for m in found] == [("one", 0), ("two", 0), ("one", 1), ("two", 1)]
  assert all(m.result == RESULT for m in found)


def test_each_process_is_told_its_job(contender, tmp_path):
  asked = contender("asked", f"cat $3 > {tmp_path}/job; exit 1")
  in_turn([asked._replace(variant="channels_last")], tmp_path)
  job = json.loads((tmp_path / "job").read_text())
  assert (job["variant"], job["model"], job["local_steps"]) == ("channels_last", "tiny", 2)
  assert job["started"] > 0


def test_the_second_start_finds_the_programs_of_the_first_and_the_first_none(
  contender, tmp_path, monkeypatch
):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "the user's")
  one = contender("one", 'echo "${JAX_COMPILATION_CACHE_DIR:-none}" >> $0.programs; exit 1')
  kinds = (measure.FIRST_START, measure.SECOND_START, "")
  for _ in range(2):
    in_turn([one._replace(variant=kind) for kind in kinds], tmp_path, repeats=1)
  first, second, third, *again = (tmp_path / "one.programs").read_text().splitlines()
  assert first == second != "the user's"
  assert third == "none"
  assert again[0] == again[1] != first


@pytest.mark.parametrize(
  ("script", "reason"),
  [
    ("echo 'ValueError: no luck' >&2; exit 3", "failed: ValueError: no luck"),
    ("true", "failed: it said nothing"),
    ("sleep 60", "took longer than 0 s"),
  ],
)
def test_a_failure_is_told_once_with_its_reason(script, reason, contender, tmp_path):
  found, said = in_turn([contender("bad", script)], tmp_path, timeout=0.3)
  assert [(m.result, m.reason) for m in found] == [(None, reason)]
  assert said == [f"c_bad_float32_0: {reason}"]
  assert (tmp_path / "calls").read_text().split() == ["bad"]
  assert (tmp_path / "c_bad_float32_0.log").exists()


def test_a_peer_that_cannot_be_installed_takes_part_with_its_reason(tmp_path, monkeypatch):
  def refuse(command, stdout, stderr):
    stdout.write("Collecting torch\nERROR: no matching distribution\n[notice] A new pip\n")
    return subprocess.CompletedProcess(command, 1)

  monkeypatch.setattr(systems.subprocess, "run", refuse)
  monkeypatch.setattr(run, "say", lambda line: None)
  peer = next(system for system in systems.SYSTEMS if system.name == "pfl")
  machine = {"versions": {}}
  pythons = run.install([peer], tmp_path, tmp_path, machine)
  reason = "cannot be installed: ERROR: no matching distribution"
  assert str(pythons["pfl"]) == reason
  assert machine["versions"] == {"pfl": reason}
  found, _ = in_turn(run.contenders(WORKLOAD, pythons, accelerator=False), tmp_path)
  assert [(m.variant, m.reason) for m in found] == [("threads", reason), ("processes", reason)]


@pytest.mark.parametrize(("module", "own"), [("numpy", False), ("no_such_module", True)])
def test_an_installed_package_needs_no_environment(module, own, tmp_path, monkeypatch):
  monkeypatch.setattr(
    systems.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0)
  )
  (tmp_path / "peer").mkdir()
  peer = System("peer", "Peer", "torch_loop", ("",), (), (("torch==1",),), installed=module)
  python = systems.environment(peer, tmp_path, tmp_path / "log")
  assert python.is_relative_to(tmp_path) == own


def test_an_environment_is_made_again_only_for_other_requirements(tmp_path, monkeypatch):
  commands = []

  def note(command, stdout, stderr):
    commands.append(command)
    (tmp_path / "peer").mkdir(exist_ok=True)
    return subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(systems.subprocess, "run", note)
  peer = System("peer", "Peer", "torch_loop", ("",), (), (("torch==1",), ("late==2", "torch==1")))
  python = systems.environment(peer, tmp_path, tmp_path / "log")
  assert [command[command.index("install") :] for command in commands[1:]] == [
    ["install", "torch==1"],
    ["install", "late==2", "torch==1"],
  ]
  assert all("--retries=0" in command for command in commands[1:])
  assert python.is_relative_to(tmp_path / "peer")
  systems.environment(peer, tmp_path, tmp_path / "log")
  assert len(commands) == 3
  systems.environment(peer._replace(requirements=(("torch==2",),)), tmp_path, tmp_path / "log")
  assert len(commands) == 5


def test_a_failed_installation_is_tried_again(tmp_path, monkeypatch):
  def fail(command, stdout, stderr):
    (tmp_path / "peer").mkdir(exist_ok=True)
    return subprocess.CompletedProcess(command, 1)

  monkeypatch.setattr(systems.subprocess, "run", fail)
  peer = System("peer", "Peer", "torch_loop", ("",), (), (("torch==1",),))
  for _ in range(2):
    with pytest.raises(Unavailable, match="cannot be installed"):
      systems.environment(peer, tmp_path, tmp_path / "log")


@pytest.mark.parametrize(
  ("script", "reason"),
  [(None, "No such file"), ("#!/bin/sh\necho 'No package jax' >&2; exit 1\n", "No package jax")],
)
def test_a_damaged_environment_is_told(script, reason, tmp_path, monkeypatch):
  python = tmp_path / "bin" / "python"
  python.parent.mkdir()
  if script:
    python.write_text(script)
    python.chmod(0o755)
  monkeypatch.setattr(run, "say", lambda line: None)
  monkeypatch.setattr(run.systems, "environment", lambda *_: python)
  machine = {"versions": {}}
  pythons = run.install([systems.SYSTEMS[1]], tmp_path, tmp_path, machine)
  assert isinstance(pythons["torch_loop"], Unavailable)
  assert reason in machine["versions"]["torch_loop"]
