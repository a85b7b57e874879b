"""``experiments.split`` as users call it."""

import csv
import functools
import json

import pytest

from experiments import split
from experiments.split_flags import SplitFlags
from fedjax_norm import nodes


@pytest.fixture
def split_run(_run, monkeypatch):
  """(*flags) -> Result of ``experiments.split`` with ``SMALL`` and these flags."""
  monkeypatch.setattr(nodes, "use_host_devices", lambda count: None)  # JAX has started with two
  return functools.partial(_run, split.main, SplitFlags, {}, "--host_devices=1")


def _rows(path):
  with open(path) as file:
    return list(csv.DictReader(file))


def test_a_run_and_what_it_leaves(split_run, tmp_path):
  result = split_run("--norm=bn", "--cut=conv2", "--workdir=whole", "--rounds=4", "--eval_every=2")
  assert result.code == 0, result.err
  assert "conv1 to conv2" in result.out
  assert "conv3 to head" in result.out
  rows, clients = _rows(tmp_path / "whole/metrics.csv"), _rows(tmp_path / "whole/clients.csv")
  summary = json.loads((tmp_path / "whole/summary.json").read_text())
  assert sum(int(row["bytes_up"]) for row in clients) == summary["bytes_up"]
  assert sum(float(row["flops"]) for row in clients) == pytest.approx(summary["client_flops"])
  assert float(rows[-1]["server_flops"]) == summary["server_flops"] > 0


def test_a_cohort_takes_turns(split_run, tmp_path):
  result = split_run("--norm=gn", "--cohort=1", "--rounds=2", "--eval_every=2", "--workdir=some")
  assert result.code == 0, result.err
  assert sum(int(row["turns"]) for row in _rows(tmp_path / "some/clients.csv")) == 2


def test_step_by_step_lists_its_messages(split_run, tmp_path):
  flags = ("--norm=gn", "--tail=conv3", "--rounds=1", "--eval_every=1", "--local_steps=1")
  result = split_run(*flags, "--step_by_step", "--workdir=slow")
  assert result.code == 0, result.err
  kinds = {row["kind"] for row in _rows(tmp_path / "slow/messages.csv")}
  assert kinds == {"activation", "gradient", "hand_over"}
  result = split_run(*flags, "--workdir=fast")
  slow, fast = (
    json.loads((tmp_path / name / "summary.json").read_text()) for name in ("slow", "fast")
  )
  assert slow["bytes_up"] == fast["bytes_up"]
  assert slow["loss"] == pytest.approx(fast["loss"], rel=1e-5)


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (("--cut=conv9",), "can be cut after conv1, conv2, conv3"),
    (("--cut=head",), "nothing is left for the other party"),
    (("--relays=conv2",), "see both ends"),
    (("--cohort=99",), "cannot be drawn"),
    (("--algorithm=splitfed_v1", "--turn_order=shuffled"), "splitfed_v2"),
    (("--clients=1", "--hand_over=peer"), "more than one client"),
    (("--step_by_step", "--batch_stats=recalibrate"), "no exchange of messages"),
    (("--labelled=0.5",), "needs --autoencoder"),
    (("--client_momentum=local",), "splitfed_v1 or splitfed_v2"),
    (("--algorithm=splitfed_v1", "--hand_over=peer"), "needs --algorithm=split"),
    (("--norm=sync_bn",), "alone with Bob"),
    (("--network=lan",), "work at the same time"),
    (("--fine_tune_steps=3",), "whole model"),
    (("--accumulate=2",), "as a whole"),
    (("--backend=vmap",), "take turns"),
    (("--norm=gn", "--batch_stats=local"), "keeps no running statistics"),
    (("--autoencoder=0.1", "--labelled=1.5"), "between 0 and 1"),
  ],
)
def test_bad_input_is_one_sentence(split_run, flags, says):
  result = split_run("--norm=bn", *flags)
  assert (result.code, result.err.count("\n")) == (2, 1)
  assert says in result.err
