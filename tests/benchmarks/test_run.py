"""The command from its options to its files, with systems that answer at once."""

import dataclasses
import json

import pytest
from helpers.benchmarks import MACHINE

from benchmarks import run, workloads
from benchmarks.peers.job import Result
from benchmarks.run import Options
from benchmarks.systems import Unavailable
from fedjax_norm.errors import UserError


@pytest.fixture
def quick(tmp_path, monkeypatch):
  """Runs the command; ours answers, every peer cannot be installed."""
  python = tmp_path / "python"
  answer = json.dumps(dataclasses.asdict(Result(1.0, 2.0, [0.5, 0.25], compile=3.0, peak_mb=9.0)))
  python.write_text(f"#!/bin/sh\necho 'RESULT {answer}'\n")
  python.chmod(0o755)
  exported = []

  def install(wanted, env_dir, logs, machine):
    for system in wanted:
      machine["versions"][system.name] = {"package": "1.0"}
    return {s.name: python if s.name == "ours" else Unavailable("no network") for s in wanted}

  monkeypatch.setattr(run, "describe_machine", lambda: {**MACHINE, "versions": {}})
  monkeypatch.setattr(run, "install", install)
  monkeypatch.setattr(run, "export", lambda one, *rest: exported.append(one.key))
  monkeypatch.setattr(run, "say", lambda line: None)

  def call(**options):
    run.main(Options(output=str(tmp_path / "out"), env_dir=str(tmp_path / "env"), **options))
    return tmp_path / "out", exported

  return call


def test_every_workload_and_every_peer_is_in_the_report(quick):
  folder, exported = quick(scale="smoke")
  populations = ["f1000", "f10000", "f100000"]
  assert exported == ["a", "b", "c", "d", "ec", *populations, "g", "h"]
  text = (folder / "results.md").read_text()
  for letter in workloads.LETTERS:
    assert f"## ({letter}) " in text
  # Six peers, with variants, for each of a to d, h and the start of c, with which a smoke run is
  # content; g is without Flower; f has three sizes.
  assert text.count("| not measured: no network |") == 6 * 6 + 5 + 3 * 4
  assert json.loads((folder / "machine.json").read_text())["threads"] == 2
  assert (folder / "results.csv").read_text().count(",round_s,") == 2 * (6 + 3 * 2 + 2)
  assert (folder / "results.png").stat().st_size > 1000


def test_repeats_and_peers_are_chosen(quick):
  folder, _ = quick(workloads=("c",), peers=(), repeats=3)
  rows = (folder / "results.csv").read_text()
  assert rows.count(",round_s,") == 3 * 2
  assert "torch_loop" not in rows
  assert "## (e)" not in (folder / "results.md").read_text()


def test_an_accelerator_s_variants_are_measured_where_there_is_one(quick):
  folder, _ = quick(workloads=("h",), peers=("torch_loop",), accelerator=True)
  assert "torch_loop,compiled," in (folder / "results.csv").read_text()


@pytest.mark.parametrize(
  ("options", "sentence"),
  [
    ({"workloads": ("x",)}, "there is no 'x'; choose among a, b, c, d, e, f, g, h"),
    ({"peers": ("tff",)}, "there is no 'tff'; choose among torch_loop, pfl, fedjax, flower"),
    ({"repeats": 0}, "nothing to measure"),
    ({"workloads": ("a", "b", "a")}, "a,b,a names one twice"),
    ({"workloads": ()}, "nothing to measure"),
    ({"data_dir": "/nowhere"}, "There is no folder '/nowhere'"),
    ({"data_dir": "."}, "'.' holds no prepared cifar10"),
  ],
)
def test_bad_options_are_one_sentence(options, sentence, quick):
  with pytest.raises(UserError, match=sentence):
    quick(**options)


def test_a_failing_export_is_one_sentence(tmp_path):
  (one,) = workloads.table("a", "smoke", accelerator=False)
  missing = str(tmp_path / "missing")
  with pytest.raises(UserError, match=rf"^the data of \(a\) cannot be exported: .*{missing}"):
    run.export(one, tmp_path, missing, tmp_path / "compiled")


def test_a_failing_ceiling_is_one_sentence(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "abacus")
  with pytest.raises(UserError, match=r"^the machine's speed cannot be measured: .*abacus"):
    run.describe_machine()
