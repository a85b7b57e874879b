"""A run of several real processes has the numbers of one, and none of them needs another's data."""

import csv
import functools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.binaries import PYTHONPATH, ROOT, free_port

from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.cli import train
from fedjax_norm.cli.methods import ANY_METHOD
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.training.placement.client_placement import Placement
from fedjax_norm.training.storage.run_folder import RunFolder

CLIENTS = 9
# A small rate, for what summing in another order changes grows with every step of so small batches.
TRAIN = ("--clients=9", "--batch_size=4", "--rounds=6", "--eval_every=3", "--partition=quantity")
TRAIN = (*TRAIN, "--lr=0.01")
# Of methods that several processes may run: with partial cohorts and kept states, or in lock-step.
FLAGS = {
  "fedavg": (
    "--norm=bn",
    "--batch_stats=local",
    "--client_momentum=local",
    "--cohort=5",
    "--local_steps=2",
    "--evaluate_clients=4",
  ),
  "scaffold": ("--norm=bn", "--cohort=5", "--local_steps=2", "--evaluate_clients=3"),
  "ssgd": ("--norm=sync_bn", "--evaluate_clients=3", "--momentum=0.9", "--network=wan"),
}
EXACT = ("round", "examples", "bytes_up", "bytes_down", "round_trips")
EVALUATES = ("--evaluate_clients=4",)
"""The flags of a method that has none of its own above."""
CLOSE = ("train_loss", "loss", "clients_top1")


def write_data(folder, source, ids) -> None:
  """The training images of these ids as they are; in the others' places lies noise."""
  train, test = source.train, source.test
  images = np.random.default_rng(1).uniform(0, 1, train.images.shape).astype(np.float32)
  images[ids] = train.images[ids]
  folder.mkdir()
  arrays = {"x_test": test.images, "y_test": test.labels, "y_train": train.labels}
  np.savez(folder / "data.npz", x_train=images, **arrays)


@pytest.fixture
def folders(tmp_path, tiny_source):
  """(processes, devices of each) -> a folder for each with its own clients' images alone."""

  def make(processes: int, devices: int):
    division = partitions.make("quantity", tiny_source.train.labels, CLIENTS, 0)
    homes = Placement(CLIENTS, processes * devices)
    made = []
    for process in range(processes):
      own = [homes.clients(process * devices + i) for i in range(devices)]
      ids = [
        division.order[division.offsets[k] : division.offsets[k + 1]] for k in np.concatenate(own)
      ]
      made.append(tmp_path / f"host{process}")
      write_data(made[-1], tiny_source, np.concatenate(ids))
    return made

  return make


@pytest.fixture
def method_run(_run):
  """(method, *flags) -> Result of ``experiments.run`` in this process."""
  return lambda name, *flags: _run(train.run, ANY_METHOD.config(name), *flags)


def run_all(folders, binary: str, workdir, *flags: str, codes=None, **environment: str):
  """Runs a process of a binary in each of the folders; (stdout, stderr) of each."""
  port = free_port()
  started = [
    subprocess.Popen(
      [
        sys.executable,
        str(ROOT / binary),
        *flags,
        f"--workdir={workdir}",
        f"--coordinator_address=127.0.0.1:{port}",
        f"--num_processes={len(folders)}",
        f"--process_id={i}",
      ],
      cwd=folder,
      env={**os.environ, "PYTHONPATH": PYTHONPATH, **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i, folder in enumerate(folders)
  ]
  said = [process.communicate(timeout=200) for process in started]
  assert [process.returncode for process in started] == (codes or [0] * len(folders)), said
  return said


def rows(workdir):
  with open(workdir / "metrics.csv", newline="") as file:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_same_numbers(workdir, other):
  pairs = list(zip(rows(workdir), rows(other), strict=True))
  for row, expected in pairs:
    assert [row[name] for name in EXACT] == [expected[name] for name in EXACT]
    for name in CLOSE:
      np.testing.assert_allclose(float(row[name]), float(expected[name]), rtol=2e-4)
  assert len(pairs) == 2


@pytest.mark.long
def test_every_method_in_one_pair_of_processes(tmp_path, tiny_source, folders, method_run):
  """All that may run there have the numbers of one process, and the others say why not."""
  several = [name for name, method in METHODS.items() if not method.one_process]
  assert set(FLAGS) <= {*several}
  runs = {name: ("--data=npz:data.npz", *TRAIN, *FLAGS.get(name, EVALUATES)) for name in METHODS}
  hosts, many = folders(2, 2), tmp_path / "many"
  pair = functools.partial(
    run_all, hosts, "tests/helpers/process_runs.py", many, "--host_devices=2"
  )
  said = pair(RUNS=json.dumps(runs))
  # The first process speaks for all of them.
  assert said[0][0].count("top-1") >= len(several)
  assert said[1][0] == ""
  for host in hosts:
    assert (host / "refusals").read_text().splitlines() == [
      f"{name} is simulated in one process; drop --num_processes."
      for name in METHODS
      if name not in several
    ]
  assert {path.name for path in many.iterdir()} == {*several}

  # Where others' images should be each process had noise, so isolation shows in the numbers; and so
  # does that standardization came from everybody's moments.
  write_data(tmp_path / "whole", tiny_source, slice(None))
  for name in several:
    flags = ("--data=npz:whole/data.npz", *runs[name][1:], f"--workdir=one/{name}")
    one = method_run(name, *flags)
    assert one.code == 0, one.err
    assert_same_numbers(many / name, tmp_path / "one" / name)
    files = {path.name for path in (many / name).iterdir()}
    assert files >= {"partition.png", "learning_curves.png", "summary.json"}
    assert json.loads((many / name / "config.json").read_text())["num_processes"] == 2

  # As if both had been killed before the last checkpoint: what follows has the same bits.
  before = [rows(many / name) for name in several]
  for name in several:
    shutil.rmtree(many / name / "checkpoints" / "6")
  pair(RUNS=json.dumps({name: runs[name] for name in several}))
  assert [rows(many / name) for name in several] == before


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.one_process])
def test_methods_of_one_process_say_so(name, method_run):
  result = method_run(name, "--num_processes=2")
  assert result.code == 2
  assert result.err == f"error: {name} runs in one process; drop --num_processes.\n"


def test_a_folder_in_use_ends_all_processes_and_keeps_the_log(tmp_path, folders):
  flags = ("--data=npz:data.npz", *TRAIN, "--norm=gn", "--host_devices=1", "--local_steps=2")
  log = tmp_path / "many.logs" / "process_0.log"
  log.parent.mkdir()
  log.write_text("of the other run\n")
  with RunFolder.open(tmp_path / "many", {}):
    said = run_all(folders(2, 1), "experiments/fedavg.py", tmp_path / "many", *flags, codes=[2, 1])
  assert f"in use by process {os.getpid()} on " in said[0][1]
  assert "another process of the run died" in said[1][1]
  assert [err.count("\n") for _, err in said] == [1, 1]
  assert log.read_text().startswith("of the other run\n")


def test_clients_live_on_devices_in_turn():
  homes = Placement(7, 3)
  assert [homes.clients(d).tolist() for d in range(3)] == [[0, 1, 2], [3, 4], [5, 6]]
  slots, positions = homes.layout(np.array([6, 1, 5, 0]), 3)
  # Client 6 is the second of the third device and the first that was asked for.
  assert slots.tolist() == [1, 0, -1, -1, -1, -1, 1, 0, -1]
  assert positions.tolist() == [1, 3, -1, -1, -1, -1, 0, 2, -1]
  np.testing.assert_array_equal(
    homes.counts(np.array([[6, 1, 5, 0], [3, 4, 0, 6]])), [[2, 0, 2], [1, 2, 1]]
  )
