"""Runs of several processes: the results of one process, with local data in each process."""

import functools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.binaries import PYTHONPATH, ROOT, free_port
from helpers.run_bits import read as rows

from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.cli import train
from fedjax_norm.cli.methods import ANY_METHOD
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.training.placement.client_placement import Placement
from fedjax_norm.training.storage.run_folder import RunFolder

CLIENTS = 9
# A small learning rate, because with small batches rounding differences grow with every step.
TRAIN = ("--clients=9", "--batch_size=4", "--rounds=6", "--eval_every=3", "--partition=quantity")
TRAIN = (*TRAIN, "--lr=0.01")
# Flags by method: partial cohorts and client states, unequal steps in chunks, or lock-step.
FLAGS = {
  "fedavg": (
    *("--norm=bn", "--batch_stats=local", "--client_momentum=local", "--cohort=5"),
    *("--local_steps=2", "--evaluate_clients=4"),
  ),
  "scaffold": (
    *("--norm=bn", "--cohort=5", "--local_epochs=1", "--chunk=2", "--evaluate_clients=3"),
  ),
  "ssgd": ("--norm=sync_bn", "--evaluate_clients=3", "--momentum=0.9", "--network=wan"),
}
EXACT = ("round", "examples", "bytes_up", "bytes_down", "round_trips")
EVALUATES = ("--evaluate_clients=4",)
"""Flags of methods that are not in ``FLAGS``."""
CLOSE = ("train_loss", "loss", "clients_top1")


def write_data(folder, source, ids) -> None:
  """Writes a data set with the training images of these ids; all other images are noise."""
  train, test = source.train, source.test
  images = np.random.default_rng(1).uniform(0, 1, train.images.shape).astype(np.float32)
  images[ids] = train.images[ids]
  folder.mkdir()
  arrays = {"x_test": test.images, "y_test": test.labels, "y_train": train.labels}
  np.savez(folder / "data.npz", x_train=images, **arrays)


@pytest.fixture
def folders(tmp_path, tiny_source):
  """(processes, devices per process) -> one folder per process, with its local clients' images."""

  def make(processes: int, devices: int):
    division = partitions.make("quantity", tiny_source.train.labels, CLIENTS, 0)
    placement = Placement(CLIENTS, processes * devices)
    folders = []
    for process in range(processes):
      local = [placement.clients(process * devices + i) for i in range(devices)]
      ids = [
        division.order[division.offsets[k] : division.offsets[k + 1]] for k in np.concatenate(local)
      ]
      folders.append(tmp_path / f"host{process}")
      write_data(folders[-1], tiny_source, np.concatenate(ids))
    return folders

  return make


@pytest.fixture
def method_run(_run):
  """(method, *flags) -> Result of ``experiments.run`` in this process."""
  return lambda name, *flags: _run(train.run, ANY_METHOD.config(name), *flags)


def run_all(folders, binary: str, workdir, *flags: str, codes=None, **environment: str):
  """Runs one process of a binary in each folder; returns their (stdout, stderr)."""
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
  outputs = [process.communicate(timeout=200) for process in started]
  assert [process.returncode for process in started] == (codes or [0] * len(folders)), outputs
  return outputs


def assert_same_numbers(workdir, other):
  pairs = list(zip(rows(workdir), rows(other), strict=True))
  for row, expected in pairs:
    assert [row[name] for name in EXACT] == [expected[name] for name in EXACT]
    for name in CLOSE:
      np.testing.assert_allclose(float(row[name]), float(expected[name]), rtol=2e-4)
  assert len(pairs) == 2


@pytest.mark.long
@pytest.mark.host_devices
def test_every_method_in_one_pair_of_processes(tmp_path, tiny_source, folders, method_run):
  """Methods have the results of one process, or are refused."""
  several = [name for name, method in METHODS.items() if not method.one_process]
  assert set(FLAGS) <= {*several}
  runs = {name: ("--data=npz:data.npz", *TRAIN, *FLAGS.get(name, EVALUATES)) for name in METHODS}
  hosts, many = folders(2, 2), tmp_path / "many"
  pair = functools.partial(
    run_all, hosts, "tests/helpers/process_runs.py", many, "--host_devices=2"
  )
  outputs = pair(RUNS=json.dumps(runs))
  # Process 0 prints for both.
  assert outputs[0][0].count("top-1") >= len(several)
  assert outputs[1][0] == ""
  for host in hosts:
    assert (host / "refusals").read_text().splitlines() == [
      f"{name} is simulated in one process; drop --num_processes."
      for name in METHODS
      if name not in several
    ]
  assert {path.name for path in many.iterdir()} == {*several}

  # Equal numbers show that no process used another's images, which were noise in its file, and that
  # the standardization used the moments of all images.
  write_data(tmp_path / "whole", tiny_source, slice(None))
  for name in several:
    flags = ("--data=npz:whole/data.npz", *runs[name][1:], f"--workdir=one/{name}")
    one = method_run(name, *flags)
    assert one.code == 0, one.err
    assert_same_numbers(many / name, tmp_path / "one" / name)
    files = {path.name for path in (many / name).iterdir()}
    assert files >= {"partition.png", "learning_curves.png", "summary.json"}
    assert json.loads((many / name / "config.json").read_text())["num_processes"] == 2

  # Without the last checkpoint, as after a kill, the resumed runs have the same bits.
  before = [rows(many / name) for name in several]
  for name in several:
    shutil.rmtree(many / name / "checkpoints" / "6")
  pair(RUNS=json.dumps({name: runs[name] for name in several}))
  assert [rows(many / name) for name in several] == before


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.one_process])
def test_methods_of_one_process_refuse_several(name, method_run):
  result = method_run(name, "--num_processes=2")
  assert result.code == 2
  assert result.err == f"error: {name} runs in one process; drop --num_processes.\n"


@pytest.mark.long
@pytest.mark.host_devices
def test_a_folder_in_use_ends_all_processes_and_the_log_stays(tmp_path, folders):
  flags = ("--data=npz:data.npz", *TRAIN, "--norm=gn", "--host_devices=1", "--local_steps=2")
  log = tmp_path / "many.logs" / "process_0.log"
  log.parent.mkdir()
  log.write_text("of the other run\n")
  with RunFolder.open(tmp_path / "many", {}):
    outputs = run_all(
      folders(2, 1), "experiments/fedavg.py", tmp_path / "many", *flags, codes=[2, 1]
    )
  assert f"in use by process {os.getpid()} on " in outputs[0][1]
  assert "another process of the run died" in outputs[1][1]
  assert [err.count("\n") for _, err in outputs] == [1, 1]
  assert log.read_text().startswith("of the other run\n")


def test_devices_have_consecutive_clients():
  placement = Placement(7, 3)
  assert [placement.clients(d).tolist() for d in range(3)] == [[0, 1, 2], [3, 4], [5, 6]]
  slots, positions = placement.layout(np.array([6, 1, 5, 0]), 3)
  # Client 6 is the second client of the third device and the first one in ``ids``.
  assert slots.tolist() == [1, 0, -1, -1, -1, -1, 1, 0, -1]
  assert positions.tolist() == [1, 3, -1, -1, -1, -1, 0, 2, -1]
  np.testing.assert_array_equal(
    placement.counts(np.array([[6, 1, 5, 0], [3, 4, 0, 6]])), [[2, 0, 2], [1, 2, 1]]
  )
