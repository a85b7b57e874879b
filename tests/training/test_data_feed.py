"""The data feed: its windows and parts have the data that rounds need."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm import client_mapping
from fedjax_norm.data.examples import Examples
from fedjax_norm.data.federated import federate
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.errors import UserError
from fedjax_norm.training.placement import data_feed, device_arrays


def federation(sizes, num_examples=None):
  """Returns clients of these sizes; an image is the id of its example, a label the id mod 7."""
  ids = np.arange(num_examples or sum(sizes))
  order = np.random.default_rng(0).permutation(ids)[: sum(sizes)]
  division = partitions.Partition(order, np.concatenate([[0], np.cumsum(sizes)]))
  images = ids.astype(np.float32).reshape(-1, 1, 1, 1)
  return federate(Examples(images, ids % 7), division, np.arange(len(sizes), dtype=np.float32))


def windows_of(data, mapping, on_host, rounds=9, start=0, cohort=3, longest=4, steps=None):
  """Returns all windows of a run and all parts of the data."""
  place = device_arrays.placer(mapping)
  lengths = {"rounds": rounds, "start": start, "cohort": cohort, "longest": longest}
  key = place(jax.random.key(3))
  with data_feed.Feed(data, mapping, key, on_host=on_host, steps=steps, **lengths) as feed:
    windows = []
    while start < rounds:
      windows.append(feed.window(start))
      assert feed.window(windows[-1].end - 1) is windows[-1]
      start = windows[-1].end
    return windows, list(feed.all_clients())


def row_content(part, row):
  """Returns the content of a row: (client, feature shift, ids, images, labels)."""
  part = jax.tree.map(np.asarray, part)
  indices = part.order[part.offsets[row] :][: part.sizes[row]]
  fields = (part.ids, part.images.ravel(), part.labels)
  return part.clients[row], part.strengths[row], *(values[indices].tolist() for values in fields)


def check_row(part, row, data, client):
  """Asserts that a row has one client's examples in their order."""
  ids = data.order[data.offsets[client] :][: data.sizes[client]].tolist()
  assert row_content(part, row) == (client, client, ids, ids, [i % 7 for i in ids])


@given(
  sizes=st.lists(st.integers(1, 30), min_size=3, max_size=12),
  budget=st.integers(0, 80),
  devices=st.sampled_from([1, 2]),
  on_host=st.booleans(),
  start=st.integers(0, 8),
  arranged=st.booleans(),
)
@settings(max_examples=15)
@pytest.mark.host_devices
def test_windows_and_parts_have_the_requested_clients(
  sizes, budget, devices, on_host, start, arranged
):
  data = federation(sizes, sum(sizes) + 5)
  mapping = client_mapping.create("shard_map" if devices == 2 else "scan", num_clients=2)
  steps = data.sizes if arranged else None
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data_feed, "_WINDOW_BUDGET", budget * 4)
    windows, parts = windows_of(data, mapping, on_host, start=start, steps=steps)
  assert [w.first for w in windows] == [start, *(w.end for w in windows[:-1])]
  assert windows[-1].end == 9
  assert len({jax.tree.map(np.shape, w[3:]) for w in windows}) == 1  # one compiled program
  for window in windows:
    assert len(window.cohorts) <= len(window.slots) <= 4
    assert len(window.clients) <= window.data.num_rows <= len(sizes)
    np.testing.assert_array_equal(window.data.clients[: len(window.clients)], window.clients)
    for slots, cohort in zip(np.asarray(window.slots), window.cohorts, strict=False):
      order = mapping.arrange(steps[cohort]) if arranged else np.arange(len(cohort))
      for row, client in zip(slots, np.append(cohort, -1)[order], strict=True):
        assert (row < 0) == (client < 0)
        if row >= 0:
          check_row(window.data, row, data, client)
  # Each device has its clients in the order of their ids, for every division into parts.
  rows = [np.asarray(part.rows) for part in parts]
  assert len({jax.tree.map(np.shape, part) for part in parts}) == 1
  clients = []
  for device in range(devices):
    for part, index in zip(parts, rows, strict=True):
      for row in index[device][index[device] >= 0]:
        clients.append(int(part.data.clients[row]))
        check_row(part.data, row, data, clients[-1])
  assert clients == list(range(len(sizes)))
  # A window or part exceeds its budget only for a single round, or for one client per device.
  if on_host:
    assert windows[0].data.images.shape[0] <= max(budget, sum(sorted(sizes)[-3:]))
    assert parts[0].data.images.shape[0] <= max(budget, devices * max(sizes))


def test_a_window_has_as_many_rounds_as_fit(monkeypatch):
  """3 of 40 clients with 10 examples: two rounds have 60 examples, and three exceed the 75."""
  monkeypatch.setattr(data_feed, "_WINDOW_BUDGET", 75 * 4)
  windows, _ = windows_of(federation([10] * 40), client_mapping.create("scan", num_clients=3), True)
  assert [len(w.cohorts) for w in windows] == [2, 2, 2, 2, 1]
  assert {w.data.images.shape for w in windows} == {(75, 1, 1, 1)}
  assert {w.data.sizes.shape for w in windows} == {(6,)}
  resident, parts = windows_of(
    federation([10] * 40), client_mapping.create("scan", num_clients=3), False
  )
  assert [len(w.cohorts) for w in resident] == [4, 4, 1]
  # All windows and parts share one copy on the device.
  assert len({id(w.data.images) for w in [*resident, *parts][:-1]}) == 1


def test_auto_chooses_by_the_memory(monkeypatch):
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


def test_a_round_that_exceeds_the_memory_is_refused(monkeypatch):
  monkeypatch.setattr(data_feed, "device_memory", lambda devices: 200)
  with pytest.raises(UserError, match="two such rounds; lower --cohort"):
    windows_of(federation([10] * 4), client_mapping.create("scan", num_clients=3), True)
