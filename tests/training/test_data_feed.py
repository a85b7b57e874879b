"""The feed: windows from the host hold what rounds need, ahead of time, and change no result."""

import dataclasses
import shutil
import threading

import chex
import jax
import numpy as np
import pytest
from helpers.settings import configure, plain, program_of
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.data.federated import federate
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.data.transforms.preprocess import Preprocess
from fedjax_norm.errors import UserError
from fedjax_norm.norm import create
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.loop import train
from fedjax_norm.training.placement import data_feed, device_arrays
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import make_task

CONFIG = configure(FedAvgConfig, plain(batch_size=4, momentum=0.9), client_momentum="local")
EPOCHS = dataclasses.replace(CONFIG, local_epochs=1, client_momentum="reset")
LOOP = LoopConfig(11, 4, cohort=3)
EXAMPLE = 6 * 6 * 4  # bytes of a tiny image


@pytest.fixture
def make_tiny_task(tiny_source, tiny_net):
  """(norm, partition, its options) -> the tiny task of 8 clients."""

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
  """Asserts that two outcomes have the same bits, but for the clock."""
  shown = [[{**row, "seconds": 0} for row in outcome.rows] for outcome in (one, other)]
  assert shown[0] == shown[1]
  chex.assert_trees_all_equal(one.variables, other.variables)
  chex.assert_trees_all_equal(one.clients.arrays, other.clients.arrays)
  np.testing.assert_array_equal(one.clients.seen, other.clients.seen)
  assert (one.frozen_at, one.client_accuracies) == (other.frozen_at, other.client_accuracies)


# name: (norm and partition, algorithm, how many rounds' worth of examples a window holds, options)
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
  # A round's clients hold about 22 of the 60 examples.
  monkeypatch.setattr(data_feed, "_WINDOW_BUDGET", rounds * 25 * EXAMPLE)
  variables = initial_variables(task, 0)
  windowed = train(program._replace(data_on="host"), LOOP, task.data, variables)
  assert_same(windowed, resident)
  # Several windows, cut by intervals and phases, run one program a phase, beside the resident one.
  assert {f._cache_size() for f in program.intervals.values()} == {2}


def test_a_run_goes_on_in_the_middle_of_a_window(make_tiny_task, monkeypatch, tmp_path):
  """Stopped at round 8, it goes on from 4: other windows than before, and the same bits."""
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


def federation(sizes, num_examples=None):
  """Clients of these sizes; the image of an example is its id, its label the id mod 7."""
  ids = np.arange(num_examples or sum(sizes))
  order = np.random.default_rng(0).permutation(ids)[: sum(sizes)]
  division = partitions.Partition(order, np.concatenate([[0], np.cumsum(sizes)]))
  images = ids.astype(np.float32).reshape(-1, 1, 1, 1)
  return federate(Examples(images, ids % 7), division, np.arange(len(sizes), dtype=np.float32))


def windows_of(data, mapping, on_host, rounds=9, start=0, cohort=3, longest=4):
  """(all windows of a run, all parts), and the feed's thread has ended."""
  place = device_arrays.placer(mapping)
  with data_feed.Feed(
    data,
    mapping,
    place(jax.random.key(3)),
    on_host=on_host,
    rounds=rounds,
    start=start,
    cohort=cohort,
    longest=longest,
  ) as supply:
    windows = []
    while start < rounds:
      windows.append(supply.window(start))
      assert supply.window(windows[-1].end - 1) is windows[-1]
      start = windows[-1].end
    return windows, list(supply.all_clients())


def held(part, row):
  """What a row of a part of the data stands for: (client, strength, ids, images, labels)."""
  part = jax.tree.map(np.asarray, part)
  places = part.order[part.offsets[row] :][: part.sizes[row]]
  fields = (part.ids, part.images.ravel(), part.labels)
  return part.clients[row], part.strengths[row], *(values[places].tolist() for values in fields)


def check_row(part, row, data, client):
  """Asserts that a row is a client of the whole federation, its examples in their order."""
  ids = data.order[data.offsets[client] :][: data.sizes[client]].tolist()
  assert held(part, row) == (client, client, ids, ids, [i % 7 for i in ids])


@given(
  sizes=st.lists(st.integers(1, 30), min_size=3, max_size=12),
  budget=st.integers(0, 80),
  devices=st.sampled_from([1, 2]),
  on_host=st.booleans(),
  start=st.integers(0, 8),
)
@settings(max_examples=15, deadline=None)
def test_windows_and_parts_hold_what_is_asked_for(sizes, budget, devices, on_host, start):
  data = federation(sizes, sum(sizes) + 5)
  mapping = client_mapping.create("shard_map" if devices == 2 else "scan", num_clients=2)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data_feed, "_WINDOW_BUDGET", budget * 4)
    windows, parts = windows_of(data, mapping, on_host, start=start)
  assert [w.first for w in windows] == [start, *(w.end for w in windows[:-1])]
  assert windows[-1].end == 9
  assert len({jax.tree.map(np.shape, w[3:]) for w in windows}) == 1  # nothing recompiles
  for window in windows:
    assert len(window.cohorts) <= len(window.slots) <= 4
    assert len(window.clients) <= window.data.num_rows <= len(sizes)
    np.testing.assert_array_equal(window.data.clients[: len(window.clients)], window.clients)
    for slots, cohort in zip(np.asarray(window.slots), window.cohorts, strict=False):
      for row, client in zip(slots, cohort, strict=True):
        check_row(window.data, row, data, client)
  # A device has its clients in the order of their ids, whatever the cuts.
  rows = [np.asarray(part.rows) for part in parts]
  assert len({jax.tree.map(np.shape, part) for part in parts}) == 1
  clients = []
  for device in range(devices):
    for part, index in zip(parts, rows, strict=True):
      for row in index[device][index[device] >= 0]:
        clients.append(int(part.data.clients[row]))
        check_row(part.data, row, data, clients[-1])
  assert clients == list(range(len(sizes)))
  # A window or part is larger than its budget only for a single round, or one client a device.
  if on_host:
    assert windows[0].data.images.shape[0] <= max(budget, sum(sorted(sizes)[-3:]))
    assert parts[0].data.images.shape[0] <= max(budget, devices * max(sizes))


def test_a_window_holds_as_many_rounds_as_fit(monkeypatch):
  """Cohorts of 3 of 40 clients of 10 examples: two disjoint rounds fill 60, and 75 hold no more."""
  monkeypatch.setattr(data_feed, "_WINDOW_BUDGET", 75 * 4)
  windows, _ = windows_of(federation([10] * 40), client_mapping.create("scan", num_clients=3), True)
  assert [len(w.cohorts) for w in windows] == [2, 2, 2, 2, 1]
  assert {w.data.images.shape for w in windows} == {(75, 1, 1, 1)}
  assert {w.data.sizes.shape for w in windows} == {(6,)}
  resident, parts = windows_of(
    federation([10] * 40), client_mapping.create("scan", num_clients=3), False
  )
  assert [len(w.cohorts) for w in resident] == [4, 4, 1]
  # One copy on the device, whatever is asked for.
  assert len({id(w.data.images) for w in [*resident, *parts][:-1]}) == 1


class Watched(np.ndarray):
  """Images that tell which of them are read, and can fail."""

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

  def note(indices):
    reads.append(indices)
    events[len(reads)].set()

  program, _ = program_of(FEDAVG, task, EPOCHS, loop, lr=0.05, data_on="host")
  evaluations = []

  def evaluate(*arguments):
    evaluations.append(arguments)
    assert events[min(len(evaluations) + 1, 3)].wait(30)
    return program.evaluate(*arguments)

  variables = initial_variables(task, 0)
  outcome = train(program._replace(evaluate=evaluate), loop, watch(task.data, note), variables)
  assert len(evaluations) == len(reads) == 3
  # Nothing is read but the examples of the clients that took part.
  owner = partitions.owners(partitions.Partition(task.data.order, np.append(task.data.offsets, 60)))
  assert set(owner[np.concatenate(reads)]) == set(np.flatnonzero(outcome.clients.seen))
  assert sum(map(len, reads)) < 60
  assert not feed_threads()


def test_what_fails_while_reading_ahead_ends_the_run(make_tiny_task, monkeypatch):
  monkeypatch.setattr(data_feed, "_WINDOW_BUDGET", 0)
  task, reads = make_tiny_task("gn"), []

  def fail(indices):
    reads.append(indices)
    if len(reads) == 3:
      raise MemoryError("too large")

  with pytest.raises(MemoryError, match="too large"):
    run(task._replace(data=watch(task.data, fail)), EPOCHS, "host")
  assert not feed_threads()


def test_a_map_stays_a_map(tmp_path, tiny_source, tiny_net):
  """From a folder of files to the last round no copy of the images is made but of the windows."""
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


def test_the_choice_goes_by_the_memory(monkeypatch):
  data, mapping = federation([10, 20]), client_mapping.create("shard_map", num_clients=2)
  size = 30 * (4 + 4 + 4 + 4)
  monkeypatch.setattr(data_feed, "device_memory", lambda devices: 2 * size)
  assert data_feed.choose_data_location("auto", data, mapping) == "device"
  monkeypatch.setattr(data_feed, "device_memory", lambda devices: 2 * size - 1)
  assert data_feed.choose_data_location("auto", data, mapping) == "host"
  assert data_feed.choose_data_location("device", data, mapping) == "device"
  monkeypatch.undo()
  assert data_feed.choose_data_location("host", data, mapping) == "host"
  with pytest.raises(UserError, match="auto, device, host"):
    data_feed.choose_data_location("disk", data, mapping)


def test_a_round_that_no_memory_holds_is_refused(monkeypatch):
  monkeypatch.setattr(data_feed, "device_memory", lambda devices: 200)
  with pytest.raises(UserError, match="choose a smaller --cohort"):
    windows_of(federation([10] * 4), client_mapping.create("scan", num_clients=3), True)


@pytest.mark.parametrize("data_on", ["device", "host"])
def test_a_hundred_thousand_clients(tiny_net, tmp_path, data_on, monkeypatch):
  """What a round has on the device, and what a checkpoint holds, does not grow with them."""
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
