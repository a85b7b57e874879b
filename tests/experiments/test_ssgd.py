"""``experiments.ssgd`` and ``experiments.asgd`` as a user runs them, and lengths in epochs."""

import json
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.run_bits import read
from helpers.settings import program_of

from fedjax_norm import norm
from fedjax_norm.algorithms.costs.ledger import Cost
from fedjax_norm.algorithms.ssgd import SSGD
from fedjax_norm.cli import app, methods, start_table, train
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.errors import UserError
from fedjax_norm.training.build_program import client_bytes
from fedjax_norm.training.task.task import make_task

AsgdFlags, FedAvgFlags, SsgdFlags = methods.ASGD_CONFIG, methods.FEDAVG_CONFIG, methods.SSGD_CONFIG


@pytest.mark.long
def test_ssgd_by_epochs(ssgd_run):
  """Two epochs of 64 examples in joint batches of 32: four rounds."""
  flags = "--norm=sync_bn --epochs=2 --lr=0.05 --lr_warmup_epochs=2 --scale_lr_from=8"
  flags += " --lr_schedule=plateau --batch_split=proportional --network=wan --workdir=run"
  result = ssgd_run(*flags.split())
  assert result.code == 0, result.err
  rows, summary = read(Path("run")), json.loads(Path("run/summary.json").read_text())
  assert [row["round"] for row in rows] == ["2", "4"]
  assert [row["examples"] for row in rows] == ["64", "64"]
  # From 0.05 to four times that.
  assert [float(row["rate"]) for row in rows] == pytest.approx([0.125, 0.2])
  # Each step the gradient and two exchanges for each of three norm layers.
  assert summary["round_trips"] == 4 * (2 * 3 + 1)
  layers = sum(4 * (2 * c + 1 + 2 * c) for c in (32, 64, 64))
  assert summary["bytes_up"] == 4 * 4 * (4 * (56_164 + 320) + layers)
  times = [float(row["simulated_seconds"]) for row in rows]
  assert times[1] == pytest.approx(2 * times[0])
  # 28 exchanges there and back over 75 ms each way, at the least.
  assert times[1] > 28 * 0.15


@pytest.mark.parametrize("algorithm", ["ssgd", "asgd"])
def test_a_run_resumes_from_its_last_checkpoint(request, algorithm):
  """The run looks as if it was killed after the row of round 4, before its checkpoint."""
  run = request.getfixturevalue(f"{algorithm}_run")
  options = {
    "ssgd": ("--norm=bn", "--batch_stats=local", "--accumulate=2", "--batch_split=proportional"),
    "asgd": ("--norm=bn", "--delay_compensation=adaptive", "--network=mobile"),
  }[algorithm]
  options += ("--lr_schedule=plateau", "--lr_patience=1", "--workdir=run")
  result = run(*options)
  assert result.code == 0, result.err
  rows = read(Path("run"))
  Path("run/checkpoints/4").rename("aside")
  assert run(*options).code == 0
  assert read(Path("run")) == rows
  assert [row["round"] for row in rows] == ["2", "4"]
  if algorithm == "asgd":
    assert float(rows[1]["simulated_seconds"]) > float(rows[0]["simulated_seconds"]) > 0
    assert float(rows[1]["staleness_max"]) >= float(rows[1]["staleness_mean"]) > 0
    # In a round one worker gets the model and sends its gradient, with the running statistics.
    assert rows[1]["bytes_up"] == rows[1]["bytes_down"] == str(4 * 4 * (56_164 + 320))


SSGD_FLAGS = [
  ("--cohort=2", "cohort"),
  ("--local_steps=2", "local_steps"),
  ("--prox=1", "prox"),
  ("--delay_lambda=1", "delay_lambda"),
  ("--weighting=uniform --norm=sync_bn", "weighting=examples"),
  ("--epochs=1 --batch_size=0", "batch_size"),
  ("--weighting=processed", "uniform"),
  ("--batch_split=half", "proportional"),
  ("--rounds=0", "rounds"),
  ("--eval_every=0", "eval_every"),
  ("--accumulate=3", "accumulate"),
  ("--accumulate=0", "accumulate"),
  ("--norm=sync_bn --accumulate=2", "in parts; drop"),
  ("--norm=sync_bn --chunk=1", "lock-step"),
  ("--norm=gn --batch_stats=moments", "running statistics"),
  ("--epochs=0", "epochs"),
  ("--epochs=2 --rounds=4", "--epochs and --rounds both give"),
  ("--epochs=2 --lr_warmup_epochs=1 --lr_warmup_rounds=1", "both give the length of the warm-up"),
  ("--epochs=2 --lr_warmup_epochs=0", "lr_warmup_epochs"),
  ("--epochs=2 --lr_warmup_epochs=3", "and the run has 4; shorten it"),
  ("--lr_warmup_epochs=1", "needs --epochs"),
  ("--scale_lr_from=0", "scale_lr_from"),
  ("--lr_warmup_from=0.01", "a warm-up"),
  ("--lr_warmup_rounds=2 --lr_warmup_from=0.05", "below the rate"),
  ("--lr_patience=2", "plateau"),
  ("--lr_schedule=plateau --lr_patience=0", "patience"),
  ("--lr_schedule=plateau --lr_factor=1", "factor"),
  ("--lr_schedule=plateau --lr_boundaries=2", "step"),
  ("--network=5g", "lan, wan, mobile"),
]
ASGD_FLAGS = [
  ("--weighting=uniform", "weighting"),
  ("--coordinator_address=localhost:2 --num_processes=2 --process_id=0 --workdir=x", "one process"),
  ("--norm=sync_bn", "never compute"),
  ("--backend=vmap --data=npz:missing.npz", "drop --backend"),
  ("--chunk=1 --data=npz:missing.npz", "--chunk"),
  ("--delay_compensation=some", "adaptive"),
  ("--delay_lambda=1", "it needs --delay_compensation=constant or adaptive"),
  ("--delay_compensation=constant --delay_lambda=0", "delay_lambda"),
  ("--delay_compensation=constant --delay_decay=0.5", "adaptive"),
  ("--delay_compensation=adaptive --delay_decay=1", "delay_decay"),
  ("--batch_stats=local", "one worker arrives at a time"),
  ("--network=5g", "lan, wan, mobile"),
]
TABLE = [("ssgd", *row) for row in SSGD_FLAGS] + [("asgd", *row) for row in ASGD_FLAGS]


@pytest.mark.parametrize(("algorithm", "arguments", "mentions"), TABLE)
def test_bad_flags(request, algorithm, arguments, mentions, tmp_path):
  result = request.getfixturevalue(f"{algorithm}_run")(*arguments.split())
  assert result.code == 2
  assert result.err.startswith("error: ")
  assert result.err.count("\n") == 1
  assert re.search(mentions, result.err), result.err
  assert not (tmp_path / "runs").exists()


def lengths(config, clients, examples):
  settled = config.in_rounds(clients, examples)
  return settled.rounds, settled.eval_every, settled.lr_warmup_rounds


def test_an_epoch_in_rounds():
  config = SsgdFlags(batch_size=8, epochs=3, lr_warmup_epochs=2)
  assert lengths(config, 4, 64) == (6, 2, 4)
  assert lengths(config, 4, 65) == (9, 3, 6)  # the last batch of an epoch may be smaller
  assert lengths(config, 5, 64) == (6, 2, 4)
  evaluated = SsgdFlags(batch_size=8, epochs=6, eval_every=2, lr_warmup_rounds=5)
  assert lengths(evaluated, 4, 65) == (18, 6, 5)
  # A round of asynchronous SGD is the arrival of one worker's batch.
  assert lengths(AsgdFlags(batch_size=8, epochs=3), 4, 65) == (27, 9, 0)


def test_lengths_in_rounds_do_not_change():
  assert lengths(SsgdFlags(), 4, 64) == lengths(FedAvgFlags(), 4, 64) == (600, 50, 0)
  assert lengths(AsgdFlags(), 4, 64) == (3000, 250, 0)
  assert lengths(SsgdFlags(rounds=7, eval_every=3, lr_warmup_rounds=2), 4, 64) == (7, 3, 2)
  # A second call changes nothing.
  once = SsgdFlags(epochs=7, scale_lr_from=8, lr_warmup_epochs=1).in_rounds(4, 64)
  assert once.in_rounds(4, 64) == once
  with pytest.raises(UserError, match="--epochs and --rounds both give the length"):
    SsgdFlags(rounds=600, epochs=2)


def test_the_rate_grows_with_the_joint_batch():
  def rates(config, clients):
    return config.in_rounds(clients, 64).rates(4).tolist()

  plain = {"batch_size": 8, "lr": 0.1, "scale_lr_from": 16, "rounds": 4}
  assert rates(SsgdFlags(**plain), 4) == pytest.approx([0.2] * 4)
  assert rates(SsgdFlags(**plain), 1) == pytest.approx([0.05] * 4)
  assert rates(AsgdFlags(**plain), 4) == pytest.approx([0.05] * 4)  # one worker's batch
  # The warm-up rises from the unscaled rate (Goyal et al. 2017) by default.
  warm = {**plain, "lr_warmup_rounds": 4}
  assert rates(SsgdFlags(**warm), 4) == pytest.approx([0.125, 0.15, 0.175, 0.2])
  assert rates(SsgdFlags(**warm, lr_warmup_from=0.0), 4) == pytest.approx([0.05, 0.1, 0.15, 0.2])
  # The start of the warm-up is compared with the scaled rate.
  assert rates(SsgdFlags(**warm, lr_warmup_from=0.1), 4) == rates(SsgdFlags(**warm), 4)
  train.check(SsgdFlags(**warm, lr_warmup_from=0.1, clients=2))
  with pytest.raises(UserError, match=r"must be below the rate 0\.05"):
    rates(SsgdFlags(**warm, lr_warmup_from=0.05), 1)
  # The warm-up starts at 0 if the rate was not scaled up.
  assert rates(SsgdFlags(**warm), 2) == pytest.approx([0.025, 0.05, 0.075, 0.1])
  assert rates(SsgdFlags(**warm), 1) == pytest.approx([0.0125, 0.025, 0.0375, 0.05])


def test_the_start_prints_the_bytes_of_distributed_bn_per_step(ssgd_run):
  result = ssgd_run("--norm=sync_bn", "--rounds=1", "--eval_every=1")
  # Three norms of 32, 64 and 64 channels: 4 C + 1 numbers of four bytes each way, two trips each.
  assert "2.57 kB up and 2.57 kB down per client, 6 round trips" in result.out
  assert result.code == 0


def test_round_trips_without_bytes_are_printed_alone():
  """As in SplitFed, which counts the bytes of activations elsewhere."""
  assert start_table._step_bytes(Cost(0, 0, step_trips=1)) == [("also per step", "1 round trip")]


@pytest.mark.parametrize("shared", [True, False])
def test_a_process_looks_for_the_file_of_the_main_process(tmp_path, monkeypatch, shared):
  token = np.array([7, 8], np.uint32)
  if shared:
    (tmp_path / "shared.token").write_bytes(token.tobytes())
  monkeypatch.setattr(train, "_TOKEN_SECONDS", 1)
  monkeypatch.setattr(train, "is_main", lambda: False)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(train.multihost_utils, "broadcast_one_to_all", lambda _: token)
  if shared:
    (tmp_path / "metrics.csv").write_text("round,loss\n2,0.5\n4,0.25\n")
    assert [row["round"] for row in train.open_folder(tmp_path, SsgdFlags()).rows()] == [2, 4]
  else:
    with pytest.raises(UserError, match="does not find"):
      train.open_folder(tmp_path, SsgdFlags())


@pytest.mark.parametrize(("processes", "devices"), [(None, 10), (3, 3), (20, 1)])
def test_processes_share_the_clients_of_their_devices(monkeypatch, processes, devices):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
  assert app._host_devices(SsgdFlags(num_processes=processes)) == devices


def test_a_workdir_may_be_in_the_home_folder(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert app.new_folder(SsgdFlags(workdir="~/run")) == tmp_path / "run"


def test_recalibration_takes_proportional_batches(tiny_source):
  """A pass over 10 and 50 examples in batches of 2 and 10 takes equally many steps."""
  partition = Partition(np.arange(60), np.array([0, 10, 60]))
  task = make_task(tiny_source, partition, norm.create("bn"))
  program, _ = program_of(
    SSGD,
    task,
    batch_size=6,
    batch_split="proportional",
    batch_stats="recalibrate",
    rounds=2,
    eval_every=1,
    network="lan",
  )
  (phase,) = program.phases.values()
  np.testing.assert_allclose(phase.recalibrate_steps, [5 / 3, 5 / 3])


def test_the_memory_of_a_step_is_that_of_the_largest_batch(tiny_source):
  task = make_task(tiny_source, Partition(np.arange(60), np.array([0, 10, 60])), norm.create("bn"))
  shares = SSGD.config(batch_size=6, batch_split="proportional")  # batches of 2 and 10
  assert client_bytes(task, shares) == client_bytes(task, SSGD.config(batch_size=10))
