"""Flags of the regimes of paper 004, app. K: drift, order and labels in the task, and errors."""

import numpy as np
import pytest
from absl import flags

from fedjax_norm.cli import methods, split_options, start_table, train
from fedjax_norm.cli.flags import define, parse
from fedjax_norm.data.federated import label_counts
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.partitions.hidden_labels import HIDDEN_LABEL
from fedjax_norm.errors import UserError

AsgdFlags, FedAvgFlags, SsgdFlags = methods.ASGD_CONFIG, methods.FEDAVG_CONFIG, methods.SSGD_CONFIG
SplitFlags = split_options.ALGORITHM.config("split")

SIZES = np.array([31, 64, 65])


def config(arguments, kind=FedAvgFlags):
  values = flags.FlagValues()
  define(kind, values)
  values(["binary", *arguments.split()])
  return parse(kind, values)


@pytest.mark.parametrize(
  ("arguments", "kind", "steps"),
  [
    ("", SsgdFlags, 1),
    ("", FedAvgFlags, 1),
    ("--local_steps=3", FedAvgFlags, 3),
    # With batches of 32 an epoch has one, two or three steps.
    ("--local_epochs=2", FedAvgFlags, [2, 4, 6]),
  ],
)
def test_the_steps_of_a_round(arguments, kind, steps):
  np.testing.assert_array_equal(config(arguments, kind).steps(SIZES), steps)


def test_the_task_has_the_steps_of_a_drift(tiny_source):
  given = config("--drift=label --rounds=10 --local_steps=3 --norm=gn --partition=iid --clients=3")
  settled, task = train.prepare(given, tiny_source)
  assert settled.drift_rounds == 5
  ((_, text),) = start_table.drift_rows(settled)
  assert (
    text == "clients have one of 2 stretches by label, and change to the next one every 5 rounds"
  )
  assert (task.data.num_stretches.tolist(), task.data.stretch_steps.tolist()) == ([2] * 3, [15] * 3)


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    ("--clients=3 --norm=gn", "--partition=classes --classes_per_client=2"),
    (
      "--partition=dirichlet --correlation=0.8 --clients=4 --norm=gn",
      "--partition=dirichlet --alpha=0.5 --min_size=1 --correlation=0.8",
    ),
    ("--partition=iid --relabelled=0.5 --norm=gn", "--partition=iid --relabelled=0.5"),
    ("--partition=ratio --clients=2 --norm=gn", "--partition=ratio --ratio=0.0"),
    (
      "--partition=feature --feature_shift=brightness --clients=2 --norm=gn",
      "--partition=feature --feature_shift=brightness --feature_scale=1.0",
    ),
  ],
)
def test_the_table_of_a_run_has_the_options_of_its_partition(tiny_source, arguments, text):
  settled, _ = train.prepare(config(arguments), tiny_source)
  assert start_table.partition_text(settled) == text


def test_the_task_has_the_order_and_the_replaced_labels(tiny_source):
  division = partitions.make("iid", tiny_source.train.labels, 3, 0)
  given = config("--batch_order=label --order_block=5 --norm=gn --relabelled=0.4")
  task = train.make_task(given, tiny_source, division)
  assert task.data.block_sizes.tolist() == [5, 5, 5]
  changed = [
    (task.data.labels != tiny_source.train.labels)[partitions.client(division, k)] for k in range(3)
  ]
  assert sorted((c.all(), c.any()) for c in changed) == [(False, False)] * 2 + [(True, True)]
  np.testing.assert_array_equal(task.source.test.labels, tiny_source.test.labels)
  # An epoch is sorted by the replaced labels.
  for k in range(3):
    ids = task.data.order[task.data.offsets[k] :][: task.data.sizes[k]]
    assert (np.diff(task.data.labels[ids]) >= 0).all()


def test_hidden_labels_are_counted_but_not_trained_on(tiny_source):
  """The figure of the partition and the label counts of a client include hidden labels."""
  labels = tiny_source.train.labels
  division = partitions.make("iid", labels, 3, 0)
  given = config("--norm=gn --autoencoder=0.1 --labelled=0.1", SplitFlags)
  data = train.make_task(given, tiny_source, division).data
  known = data.targets != HIDDEN_LABEL
  np.testing.assert_array_equal(data.targets[known], labels[known])
  counts = label_counts(data, np.arange(3), 4)
  for k, ids in enumerate(partitions.client(division, k) for k in range(3)):
    assert known[ids].sum() == max(1, round(0.1 * len(ids)))
    np.testing.assert_array_equal(counts[k], np.bincount(labels[ids], minlength=4))


@pytest.mark.parametrize("flag", ["--evaluate_clients=2", "--fine_tune_steps=1", "--diagnostics"])
def test_relabelled_clients_cannot_be_tested(flag):
  with pytest.raises(UserError, match="relabelled clients cannot be tested"):
    config(f"--relabelled=0.4 {flag}")


@pytest.mark.parametrize(
  ("arguments", "kind", "words"),
  [
    ("--order_block=3", FedAvgFlags, "order_block"),
    ("--batch_order=label --order_block=0", FedAvgFlags, "block"),
    ("--drift_rounds=3", FedAvgFlags, "drift_rounds"),
    ("--drift_stretches=3", FedAvgFlags, "drift_stretches"),
    ("--drift=label --drift_stretches=1", FedAvgFlags, "drift_stretches"),
    ("--drift=label --drift_rounds=0", FedAvgFlags, "drift_rounds"),
    ("--drift=label", AsgdFlags, "Unknown command line flag 'drift'"),
    ("--fine_tune_lr=0.1", FedAvgFlags, "fine_tune_steps"),
    ("--fine_tune_steps=0", FedAvgFlags, "fine_tune_steps"),
  ],
)
def test_options_that_would_do_nothing_are_refused(arguments, kind, words):
  with pytest.raises((UserError, flags.Error), match=words):
    config(arguments, kind)
