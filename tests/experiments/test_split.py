"""``experiments.split`` as users run it."""

import csv
import functools
import json
from pathlib import Path

import pytest

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.costs.network_profiles import PROFILES
from fedjax_norm.cli import split_options, train
from fedjax_norm.cli.finished_run import saved_options


@pytest.fixture
def split_run(_run, monkeypatch):
  """A function: flags -> Result of ``experiments.split`` with ``SMALL`` and these flags."""
  # JAX already runs with two devices.
  monkeypatch.setattr(client_mapping, "use_host_devices", lambda count: None)
  main = functools.partial(train.run, make=split_options.make)
  return functools.partial(_run, main, split_options.ALGORITHM, "--host_devices=1")


def _rows(path):
  with open(path) as file:
    return list(csv.DictReader(file))


def test_a_run_and_its_files(split_run, tmp_path):
  flags = ("--norm=bn", "--cut=conv2", "--rounds=4", "--eval_every=2", "--network=lan")
  result = split_run(*flags, "--workdir=whole")
  assert result.code == 0, result.err
  assert "conv1 to conv2" in result.out
  assert "conv3 to head" in result.out
  rows, clients = _rows(tmp_path / "whole/metrics.csv"), _rows(tmp_path / "whole/clients.csv")
  summary = json.loads((tmp_path / "whole/summary.json").read_text())
  assert sum(int(row["bytes_up"]) for row in clients) == summary["bytes_up"]
  assert sum(float(row["flops"]) for row in clients) == pytest.approx(summary["client_flops"])
  assert float(rows[-1]["server_flops"]) == summary["server_flops"] > 0
  # All of the simulated time except that of the links is computation of the clients.
  lan = PROFILES["lan"]
  links = 2 * lan.latency * summary["round_trips"]
  links += summary["bytes_up"] / lan.up + summary["bytes_down"] / lan.down
  work = (summary["simulated_seconds"] - links) * lan.flops / summary["client_flops"]
  assert lan.flops_spread**-0.5 <= work <= lan.flops_spread**0.5


def test_a_cohort_takes_turns(split_run, tmp_path):
  flags = ("--norm=gn", "--cohort=1", "--rounds=3", "--eval_every=1", "--workdir=some")
  result = split_run(*flags, "--autoencoder=0.1", "--labelled=0.001", "--batch_size=2")
  assert result.code == 0, result.err
  assert sum(int(row["turns"]) for row in _rows(tmp_path / "some/clients.csv")) == 3
  # A round without labels has no training loss, and no warning.
  rows = _rows(tmp_path / "some/metrics.csv")
  assert {(row["examples"] == "0", row["train_loss"] == "nan") for row in rows} == {
    (True, True),
    (False, False),
  }


@pytest.mark.long
def test_step_by_step_lists_its_messages(split_run, tmp_path):
  flags = ("--norm=gn", "--tail=conv3", "--rounds=1", "--eval_every=1", "--local_steps=1")
  result = split_run(*flags, "--step_by_step", "--workdir=slow")
  assert result.code == 0, result.err
  kinds = {row["kind"] for row in _rows(tmp_path / "slow/messages.csv")}
  assert kinds == {"activation", "gradient", "hand_over"}
  # The links are so slow that only the sequential messages take time.
  header = "node,step_seconds,latency_seconds,up_bytes_per_second,down_bytes_per_second"
  nodes = [f"{node},1e-9,1000,2,4" for node in range(10)]
  Path("slow.csv").write_text("\n".join([header, *nodes]))
  result = split_run(*flags, "--workdir=fast", "--network=slow.csv")
  assert result.code == 0, result.err
  slow, fast = (
    json.loads((tmp_path / name / "summary.json").read_text()) for name in ("slow", "fast")
  )
  assert slow["bytes_up"] == fast["bytes_up"]
  assert slow["loss"] == pytest.approx(fast["loss"], rel=1e-5)
  waited = 2000 * fast["round_trips"] + fast["bytes_up"] / 2 + fast["bytes_down"] / 4
  assert fast["simulated_seconds"] == pytest.approx(waited)


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (("--cut=conv9",), "can be cut after conv1, conv2, conv3"),
    (("--cut=head",), "no stage is left after the cut"),
    (("--relays=conv2",), "see both ends"),
    (("--cohort=99",), "lower --cohort"),
    (("--algorithm=splitfed_v1", "--turn_order=fixed"), "drop turn_order"),
    (("--algorithm=splitfed_v2", "--handed_over=weights"), "drop handed_over"),
    (("--clients=1", "--hand_over=centralised"), "more than one client"),
    (("--clients=1", "--handed_over=weights"), "more than one client"),
    (("--clients=1", "--turn_order=fixed"), "more than one client"),
    (("--step_by_step", "--batch_stats=recalibrate"), "drop --step_by_step"),
    (("--labelled=0.5",), "needs --autoencoder"),
    (("--client_momentum=reset",), "use splitfed_v1"),
    (("--algorithm=splitfed_v1", "--hand_over=peer"), "drop hand_over"),
    (("--algorithm=splitfed_v1", "--relays=conv1,conv2", "--hand_over=peer"), "drop hand_over"),
    (("--norm=sync_bn",), "one client at a time"),
    (("--fine_tune_lr=0.1",), "Unknown command line flag 'fine_tune_lr'"),
    (("--num_processes=2",), "split runs in one process; drop --num_processes"),
    (("--autoencoder=0",), "--autoencoder is 0;"),
    (("--relays=",), "name two or more"),
    (("--backend=vmap", "--data=npz:missing.npz"), "run sequentially; drop --backend=vmap"),
    (("--norm=gn", "--batch_stats=local"), "keeps no running statistics"),
    (("--autoencoder=0.1", "--labelled=1.5"), "between 0 and 1"),
  ],
)
def test_bad_input_is_one_sentence(split_run, flags, says):
  result = split_run("--norm=bn", *flags)
  assert (result.code, result.err.count("\n")) == (2, 1)
  assert says in result.err


def test_the_flags_of_an_older_version_are_read():
  """Older versions saved texts for today's numbers, None for defaults, and removed flags."""
  saved = {
    "algorithm": "splitfed_v2",
    "version": "0.2.0",
    "norm": "fixbn",
    "rounds": 7,
    "lr_schedule": "step",
    "lr_boundaries": "2,3",
    "lr_factor": None,
    "freeze_round": "5",
    "no_longer_there": 1,
  }
  flags = saved_options(saved)
  assert (flags.algorithm, flags.rounds, flags.lr_factor) == ("splitfed_v2", 7, 0.1)
  assert (flags.lr_boundaries, flags.freeze_round) == ((2.0, 3.0), 5)
