"""A run of several real processes has the numbers of one, and none of them needs another's data."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from experiments_helpers import PYTHONPATH, free_port

from fedjax_norm.data import partition
from fedjax_norm.training.homes import Homes
from fedjax_norm.training.run_folder import RunFolder

CLIENTS = 9
# A small rate, for what summing in another order changes grows with every step of so small batches.
TRAIN = ("--clients=9", "--batch_size=4", "--rounds=6", "--eval_every=3", "--partition=quantity")
TRAIN = (*TRAIN, "--lr=0.01")
EXACT = ("round", "examples", "bytes_up", "bytes_down", "round_trips")
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
    division = partition.make("quantity", tiny_source.train.labels, CLIENTS, 0)
    homes = Homes(CLIENTS, processes * devices)
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


def run_all(folders, binary: str, workdir, *flags: str, codes=None) -> list[tuple[str, str]]:
  """Runs a process in each of the folders; (stdout, stderr) of each."""
  port = free_port()
  started = [
    subprocess.Popen(
      [
        sys.executable,
        "-m",
        f"experiments.{binary}",
        "--data=npz:data.npz",
        *TRAIN,
        *flags,
        f"--workdir={workdir}",
        f"--coordinator_address=127.0.0.1:{port}",
        f"--num_processes={len(folders)}",
        f"--process_id={i}",
      ],
      cwd=folder,
      env={**os.environ, "PYTHONPATH": PYTHONPATH},
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


def test_distributed_bn_over_two_processes_of_two_devices(tmp_path, tiny_source, folders, ssgd_run):
  flags = ("--norm=sync_bn", "--evaluate_clients=3", "--momentum=0.9", "--network=wan")
  hosts = folders(2, 2)
  said = run_all(hosts, "ssgd", tmp_path / "many", *flags, "--host_devices=2")
  write_data(tmp_path / "whole", tiny_source, slice(None))
  one = ssgd_run("--data=npz:whole/data.npz", *TRAIN, *flags, "--workdir=one")
  assert one.code == 0, one.err
  assert_same_numbers(tmp_path / "many", tmp_path / "one")
  # As if both had been killed before the last checkpoint: what follows has the same bits.
  before = rows(tmp_path / "many")
  shutil.rmtree(tmp_path / "many" / "checkpoints" / "6")
  run_all(hosts, "ssgd", tmp_path / "many", *flags, "--host_devices=2")
  assert rows(tmp_path / "many") == before
  # The first process speaks for all of them.
  assert "top-1" in said[0][0]
  assert said[1][0] == ""
  files = {path.name for path in (tmp_path / "many").iterdir()}
  assert files >= {"partition.png", "learning_curves.png", "communication.csv", "summary.json"}
  # That standardisation came from everybody's moments shows in the numbers; so does isolation, for
  # where others' images should be each process had noise.
  assert json.loads((tmp_path / "many/config.json").read_text())["num_processes"] == 2


def test_cohorts_and_kept_states_over_three_processes(tmp_path, tiny_source, folders, fedavg_run):
  flags = ("--norm=bn", "--batch_stats=local", "--client_momentum=local", "--cohort=5")
  flags = (*flags, "--local_steps=2", "--evaluate_clients=4")
  run_all(folders(3, 1), "fedavg", tmp_path / "many", *flags, "--host_devices=1")
  write_data(tmp_path / "whole", tiny_source, slice(None))
  one = fedavg_run("--data=npz:whole/data.npz", *TRAIN, *flags, "--workdir=one")
  assert one.code == 0, one.err
  assert_same_numbers(tmp_path / "many", tmp_path / "one")


def test_a_folder_in_use_ends_all_processes_and_keeps_the_log(tmp_path, folders):
  flags = ("--norm=gn", "--host_devices=1", "--local_steps=2")
  log = tmp_path / "many.logs" / "process_0.log"
  log.parent.mkdir()
  log.write_text("of the other run\n")
  with RunFolder.open(tmp_path / "many", {}):
    said = run_all(folders(2, 1), "fedavg", tmp_path / "many", *flags, codes=[2, 1])
  assert f"in use by process {os.getpid()} on " in said[0][1]
  assert "another process of the run died" in said[1][1]
  assert [err.count("\n") for _, err in said] == [1, 1]
  assert log.read_text().startswith("of the other run\n")


def test_clients_live_on_devices_in_turn():
  homes = Homes(7, 3)
  assert [homes.clients(d).tolist() for d in range(3)] == [[0, 1, 2], [3, 4], [5, 6]]
  slots, positions = homes.layout(np.array([6, 1, 5, 0]), 3)
  # Client 6 is the second of the third device and the first that was asked for.
  assert slots.tolist() == [1, 0, -1, -1, -1, -1, 1, 0, -1]
  assert positions.tolist() == [1, 3, -1, -1, -1, -1, 0, 2, -1]
  np.testing.assert_array_equal(
    homes.counts(np.array([[6, 1, 5, 0], [3, 4, 0, 6]])), [[2, 0, 2], [1, 2, 1]]
  )
