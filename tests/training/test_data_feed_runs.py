"""Runs with windows from the host: the same results as with all data on the device."""

import dataclasses
import shutil
import threading

import chex
import numpy as np
import pytest
from helpers.settings import configure, plain, program_of

from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.data.transforms.preprocess import Preprocess
from fedjax_norm.norm import create
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.loop import train
from fedjax_norm.training.placement import data_feed
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import make_task

CONFIG = configure(FedAvgConfig, plain(batch_size=4, momentum=0.9), client_momentum="local")
EPOCHS = dataclasses.replace(CONFIG, local_epochs=1, client_momentum="reset")
LOOP = LoopConfig(11, 4, cohort=3)
EXAMPLE = 6 * 6 * 4  # bytes of a tiny image


@pytest.fixture
def make_tiny_task(tiny_source, tiny_net):
  """(norm, partition, options of the partition) -> the tiny task with 8 clients."""

  def make(norm="gn", name="dirichlet", **options):
    shift = "noise" if name == "feature" else None
    division = partitions.make(name, tiny_source.train.labels, 8, 0, **options)
    spec = create(norm, **({"groups": 2} if norm == "gn" else {}))
    task = make_task(tiny_source, division, spec, preprocess=Preprocess(feature_shift=shift))
    return task._replace(model=tiny_net(norm=spec))

  return make


def run(task, config, data_on, loop=LOOP, folder=None, **options):
  program, _ = program_of(FEDAVG, task, config, loop, lr=0.05, data_on=data_on, **options)
  return program, train(program, loop, task.data, initial_variables(task, 0), folder)


def assert_same(one, other):
  """Asserts that two outcomes are equal bit for bit, except for their durations."""
  rows = [[{**row, "seconds": 0} for row in outcome.rows] for outcome in (one, other)]
  assert rows[0] == rows[1]
  chex.assert_trees_all_equal(one.variables, other.variables)
  chex.assert_trees_all_equal(one.clients.arrays, other.clients.arrays)
  np.testing.assert_array_equal(one.clients.seen, other.clients.seen)
  assert (one.frozen_at, one.client_accuracies) == (other.frozen_at, other.client_accuracies)


# name: (norm and partition, options of FedAvg, rounds per window, options of the run)
CASES = {
  "features and a freeze": (("fixbn", "feature"), CONFIG, 2, {"freeze_round": 5}),
  "unequal clients, recalibrated": (
    ("bn", "dirichlet"),
    dataclasses.replace(EPOCHS, batch_stats="recalibrate"),
    1,
    {"evaluate_clients": 3},
  ),
  "models on the clients": (
    ("bn", "iid"),
    dataclasses.replace(CONFIG, batch_stats="local", fedbn=True),
    2,
    {"evaluate_clients": 2},
  ),
}


@pytest.mark.parametrize("case", CASES)
def test_windows_from_the_host_change_nothing(make_tiny_task, monkeypatch, case):
  division, config, rounds, options = CASES[case]
  task = make_tiny_task(*division)
  program, resident = run(task, config, "device", **options)
  # The clients of a round have about 22 of the 60 examples.
  monkeypatch.setattr(data_feed, "_WINDOW_BUDGET", rounds * 25 * EXAMPLE)
  variables = initial_variables(task, 0)
  windowed = train(program._replace(data_on="host"), LOOP, task.data, variables)
  assert_same(windowed, resident)
  # All windows of a phase run one program; the other one is for data on the device.
  assert {f._cache_size() for f in program.intervals.values()} == {2}


def test_a_run_resumes_in_the_middle_of_a_window(make_tiny_task, monkeypatch, tmp_path):
  """A run that stops at round 8 resumes from 4 with other windows, and gives the same bits."""
  task, loop = make_tiny_task("gn"), LoopConfig(11, 4, cohort=3)
  monkeypatch.setattr(data_feed, "_WINDOW_BUDGET", 75 * EXAMPLE)
  program, whole = run(task, CONFIG, "host", loop)
  variables, evaluations = initial_variables(task, 0), []

  def failing(*arguments):
    evaluations.append(arguments)
    if len(evaluations) == 2:
      raise KeyboardInterrupt
    return program.evaluate(*arguments)

  stopped = program._replace(evaluate=failing)
  with RunFolder.open(tmp_path / "run", {}) as folder:
    with pytest.raises(KeyboardInterrupt):
      train(stopped, loop, task.data, variables, folder)
    assert [row["round"] for row in folder.rows()] == [4]
  assert not feed_threads()
  shutil.copytree(tmp_path / "run", tmp_path / "copy")
  for folder_name, data_on in (("run", "host"), ("copy", "device")):
    with RunFolder.open(tmp_path / folder_name, {}) as folder:
      resumed = train(program._replace(data_on=data_on), loop, task.data, variables, folder)
    assert_same(resumed, whole)


class Watched(np.ndarray):
  """Images that report which of them are read, and can fail."""

  def take(self, indices, *arguments):
    self.reads(np.array(indices))
    return np.asarray(self).take(indices, *arguments)


def watch(data, reads):
  images = data.images.view(Watched)
  images.reads = reads
  return data._replace(images=images)


def feed_threads():
  return [t for t in threading.enumerate() if t.name.startswith("feed")]


def test_the_next_window_is_read_while_this_interval_is_evaluated(make_tiny_task, monkeypatch):
  monkeypatch.setattr(data_feed, "_WINDOW_BUDGET", 0)
  task, loop = make_tiny_task("gn"), LoopConfig(3, 1, cohort=2)
  reads, events = [], [threading.Event() for _ in range(4)]

  def record(indices):
    reads.append(indices)
    events[len(reads)].set()

  program, _ = program_of(FEDAVG, task, EPOCHS, loop, lr=0.05, data_on="host")
  evaluations = []

  def evaluate(*arguments):
    evaluations.append(arguments)
    assert events[min(len(evaluations) + 1, 3)].wait(30)
    return program.evaluate(*arguments)

  variables = initial_variables(task, 0)
  outcome = train(program._replace(evaluate=evaluate), loop, watch(task.data, record), variables)
  assert len(evaluations) == len(reads) == 3
  # Only the examples of the clients that took part are read.
  owner = partitions.owners(partitions.Partition(task.data.order, np.append(task.data.offsets, 60)))
  assert set(owner[np.concatenate(reads)]) == set(np.flatnonzero(outcome.clients.seen))
  assert sum(map(len, reads)) < 60
  assert not feed_threads()


def test_an_error_while_reading_ahead_ends_the_run(make_tiny_task, monkeypatch):
  monkeypatch.setattr(data_feed, "_WINDOW_BUDGET", 0)
  task, reads = make_tiny_task("gn"), []

  def fail(indices):
    reads.append(indices)
    if len(reads) == 3:
      raise MemoryError("too large")

  with pytest.raises(MemoryError, match="too large"):
    run(task._replace(data=watch(task.data, fail)), EPOCHS, "host")
  assert not feed_threads()


def test_a_memory_map_is_not_copied(tmp_path, tiny_source, tiny_net):
  """Only the windows copy images from the files of the source."""
  for split in ("train", "test"):
    for name, values in zip("xy", getattr(tiny_source, split)[:2], strict=True):
      np.save(tmp_path / f"{name}_{split}.npy", values)
  source = sources.load(f"npy:{tmp_path}")
  division = partitions.make("iid", source.train.labels, 8, 0)
  spec = create("gn", groups=2)
  task = make_task(source, division, spec)._replace(model=tiny_net(norm=spec))
  assert isinstance(source.train.images, np.memmap)
  assert np.shares_memory(task.data.images, source.train.images)
  from_memory = make_task(tiny_source._replace(class_names=source.class_names), division, spec)
  from_memory = from_memory._replace(model=task.model)
  assert_same(run(task, EPOCHS, "host")[1], run(from_memory, EPOCHS, "device")[1])


@pytest.mark.parametrize("data_on", ["device", "host"])
def test_a_hundred_thousand_clients(tiny_net, tmp_path, data_on, monkeypatch):
  """The device memory of a round and the checkpoint do not grow with the population."""
  population = 100_000
  labels = np.arange(2 * population, dtype=np.int32) % 4
  images = np.zeros((len(labels), 6, 6, 1), np.uint8)
  images[np.arange(len(labels)), labels] = 200
  owner = np.random.default_rng(0).permutation(len(labels)) // 2
  train_set = Examples(images, labels, owner)
  source = Source("many", train_set, Examples(images[:20], labels[:20]), tuple("abcd"))
  division = partitions.make("natural", labels, 0, 0, clients=owner)
  spec = create("gn", groups=2)
  task = make_task(source, division, spec, preprocess=Preprocess(standardise=False))
  task = task._replace(model=tiny_net(norm=spec))
  loop, windows = LoopConfig(2, 1, cohort=5), []
  monkeypatch.setattr(
    data_feed.Feed,
    "window",
    lambda self, r, real=data_feed.Feed.window: windows.append(real(self, r)) or windows[-1],
  )
  with RunFolder.open(tmp_path / "run", {}) as folder:
    _, outcome = run(task, EPOCHS, data_on, loop, folder)
  assert outcome.clients.seen.sum() == 10
  assert {w.data.sizes.shape for w in windows} == {(5,)}
  assert {w.slots.shape for w in windows} == {(1, 5)}
  examples = {w.data.images.shape[0] for w in windows}
  assert examples == ({len(labels)} if data_on == "device" else {10})
  checkpoint = [f for f in (tmp_path / "run" / "checkpoints" / "2").rglob("*") if f.is_file()]
  assert sum(f.stat().st_size for f in checkpoint) < 2 * population
