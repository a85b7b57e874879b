"""The task that ``from_config`` builds from the options."""

import numpy as np
import pytest

from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.errors import UserError
from fedjax_norm.training.task import config as task_config
from fedjax_norm.training.task.config import TaskConfig, divide, from_config, resolve


def task_of(source, config, **others):
  train = source.train
  config = resolve(config, train.labels, train.clients)
  division = partitions.from_config(config, train.labels, train.clients, 0)
  return config, from_config(config, source, division, 0, 10, **others)


def test_the_default_feature_shift_is_noise(tiny_source):
  given = TaskConfig(partition="feature", clients=3, norm="gn", feature_scale=0.5)
  config, task = task_of(tiny_source, given)
  assert config.feature_shift == "noise"
  np.testing.assert_allclose(task.data.strengths, [0, 0.25, 0.5])


def test_a_drift_depends_on_the_local_steps_of_each_client(tiny_source):
  given = TaskConfig(partition="iid", clients=3, norm="gn", drift="label")
  _, task = task_of(tiny_source, given, steps=np.array([1, 2, 3]))
  assert task.data.num_stretches.tolist() == [2, 2, 2]
  assert task.data.stretch_steps.tolist() == [5, 10, 15]


@pytest.mark.parametrize("options", [{"feature_shift": "noise"}, {"feature_scale": 2.0}])
def test_a_shift_needs_its_partition(options):
  with pytest.raises(UserError, match="does nothing here: it needs --partition=feature"):
    TaskConfig(partition="iid", **options)


@pytest.mark.parametrize(
  ("options", "others", "which"),
  [({"relabelled": 0.5}, {}, "relabelled"), ({}, {"labelled": 0.5}, "labelled")],
)
def test_options_that_change_labels_need_a_task_with_labels(tiny_source, options, others, which):
  given = TaskConfig(task="regression", partition="iid", clients=3, **options)
  with pytest.raises(UserError, match=f"--{which} changes classes, and --task is regression"):
    task_of(tiny_source, given, **others)


def test_the_test_set_of_a_run_is_that_of_the_clients_that_train(make_source):
  source = make_source(num_train=12, num_test=9)
  train, test = (
    part._replace(clients=np.arange(len(part.labels), dtype=np.int32) % 3)
    for part in (source.train, source.test)
  )
  source = source._replace(train=train, test=test, client_names=("a", "b", "c"))
  division = partitions.make("natural", train.labels, 0, 0, clients=train.clients)
  config = TaskConfig(partition="natural", norm="gn", unseen_clients="b")
  source, division, held_out = divide(config, source, division, 5)
  task = from_config(config, source, division, 5, 10, held_out=held_out)
  assert task.client_names == ("a", "c", "b")
  assert task.test_owners.tolist() == [0, 1] * 3
  np.testing.assert_array_equal(task.source.test.images, test.images[test.clients != 1])
  np.testing.assert_array_equal(task.unseen.images[4:], test.images[test.clients == 1])


@pytest.mark.parametrize(
  ("options", "processes", "message"),
  [
    ({"validation_share": 0.2}, 2, "--validation_share needs a single process"),
    ({"unseen_clients": 1}, 2, "--unseen_clients needs a single process"),
    ({"validation_share": 0.2, "task": "verification"}, 1, "pairs of other classes; drop --val"),
    ({"unseen_clients": 1, "task": "regression"}, 1, "--unseen_clients reports an accuracy"),
  ],
)
def test_held_out_data_that_cannot_be_tested_is_refused(
  tiny_source, monkeypatch, options, processes, message
):
  monkeypatch.setattr(task_config.jax, "process_count", lambda: processes)
  labels = tiny_source.train.labels
  division = partitions.make("iid", labels, 3, 0)
  with pytest.raises(UserError, match=message):
    divide(TaskConfig(**options), tiny_source, division, 0)
  assert divide(TaskConfig(), tiny_source, division, 0) == (tiny_source, division, None)
