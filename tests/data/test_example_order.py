"""Sorted and drifting orders of a client's examples, against lists and by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.data import example_order as orders
from fedjax_norm.data.example_order import FOREVER, ExampleOrder, arrange
from fedjax_norm.data.examples import Examples
from fedjax_norm.data.federated import draw, federate, gather, rows, without_drift
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.errors import UserError

TOTAL, STEPS, BATCH = 50, 40, 4
LABELS = (np.arange(TOTAL) * 7 % 5).astype(np.int32)  # example i has label 2 i mod 5


def divide(sizes):
  order = np.random.default_rng(1).permutation(TOTAL).astype(np.int32)
  return Partition(order, np.concatenate([[0], np.cumsum(sizes)]))


def federation(sizes, order, steps=FOREVER):
  examples = Examples(np.zeros((TOTAL, 1, 1, 1), np.float32), LABELS)
  return federate(examples, divide(sizes), order=order, stretch_steps=steps)


@functools.cache
def drawer():
  """Returns (data, client) -> the ids of its first batches [STEPS, BATCH], -1 for padding."""

  def one(data, client, step):
    def ids_of(images, ids, *_):
      return ids

    batch = draw(data, client, step, BATCH, ids_of, jax.random.key(5))
    return jnp.where(batch.mask > 0, batch.images, -1)

  return jax.jit(jax.vmap(one, (None, None, 0)))


def drawn(data, client=0):
  """Returns the ids of each of the client's first batches."""
  data = jax.tree.map(jnp.asarray, data)
  ids = np.asarray(drawer()(data, jnp.int32(client), jnp.arange(STEPS, dtype=jnp.int32)))
  return [row[row >= 0].tolist() for row in ids]


def epochs(batches, size):
  """Returns the examples of each whole epoch of a client with `size` examples."""
  length = -(-size // BATCH)
  whole = range(0, len(batches) - length + 1, length)
  return [joined(batches[start : start + length]) for start in whole]


def joined(batches):
  return list(itertools.chain(*batches))


def test_by_default_the_order_is_that_of_the_partition():
  division = divide((30, 20))
  arranged = arrange(division, LABELS, ExampleOrder())
  np.testing.assert_array_equal(arranged.order, division.order)
  assert (arranged.block_sizes.tolist(), arranged.num_stretches.tolist()) == ([1, 1], [1, 1])


@pytest.mark.parametrize("by", ["label", "source"])
def test_sorted_batches_have_the_same_order_in_every_epoch(by):
  data = federation((27, 23), ExampleOrder(by))
  for client, size in enumerate((27, 23)):
    ids = np.split(divide((27, 23)).order, [27])[client]
    first, *others = epochs(drawn(data, client), size)
    assert sorted(first) == sorted(ids)
    keys = LABELS[first] if by == "label" else first
    assert (np.diff(keys) >= 0).all()
    assert all(epoch == first for epoch in others)


@given(block=st.integers(1, 30), size=st.integers(5, 45))
@settings(max_examples=25)
def test_epochs_shuffle_whole_blocks(block, size):
  data = federation((size, TOTAL - size), ExampleOrder("label", block))
  line = data.order[:size].tolist()  # by label
  assert (np.diff(LABELS[line]) >= 0).all()
  cut = size // min(block, size) * min(block, size)
  blocks = [line[i : i + block] for i in range(0, cut, block)]
  seen = epochs(drawn(data), size)
  for epoch in seen:
    assert epoch[cut:] == line[cut:]  # the examples after the last whole block
    drawn_blocks = [epoch[i : i + block] for i in range(0, cut, block)]
    assert sorted(drawn_blocks) == sorted(blocks)
  if len(blocks) > 5:
    assert seen[0] != seen[1]


@given(stretches=st.integers(2, 9), span=st.integers(1, 12), size=st.integers(1, 45))
@settings(max_examples=40)
def test_drifting_clients_draw_from_one_stretch_at_a_time(stretches, span, size):
  data = federation(
    (size, TOTAL - size), ExampleOrder(drift="label", drift_stretches=stretches), span
  )
  parts = np.array_split(data.order[:size], min(stretches, size))
  assert (np.diff(LABELS[data.order[:size]]) >= 0).all()
  streams = [[] for _ in parts]
  for step, batch in enumerate(drawn(data)):
    stretch = step // span % len(parts)
    assert set(batch) <= set(parts[stretch].tolist())
    streams[stretch].append(batch)
  for part, batches in zip(parts, streams, strict=True):  # the epochs of each stretch
    for epoch in epochs(batches, len(part)):
      assert sorted(epoch) == sorted(part.tolist())


@given(stretches=st.integers(2, 9), span=st.integers(1, 12), size=st.integers(1, 45))
@settings(max_examples=40)
def test_clients_that_keep_their_stretches_gain_examples(stretches, span, size):
  order = ExampleOrder(drift="source", drift_stretches=stretches, drift_keeps=True)
  data = federation((size, TOTAL - size), order, span)
  parts = np.array_split(data.order[:size], min(stretches, size))
  streams = [[] for _ in parts]
  for step, batch in enumerate(drawn(data)):
    streams[min(step // span, len(parts) - 1)].append(batch)
  for last, batches in enumerate(streams):  # new epochs over all that the client has
    held = np.concatenate(parts[: last + 1]).tolist()
    assert set(joined(batches)) <= set(held)
    for epoch in epochs(batches, len(held)):
      assert sorted(epoch) == sorted(held)


def test_the_classes_of_a_drifting_client_by_hand():
  """Checks a client with ten examples of each class."""
  order = ExampleOrder(drift="label", drift_stretches=5)
  labels = [sorted(set(LABELS[batch])) for batch in drawn(federation((TOTAL,), order, 3))[:18]]
  assert labels == [[c] for c in (0, 1, 2, 3, 4, 0) for _ in range(3)]
  # The first two of three stretches have 17 examples: 10 of one class and 7 of the next.
  data = federation((TOTAL,), ExampleOrder(drift="label", drift_stretches=3), 5)
  seen = drawn(data)
  assert [sorted(set(LABELS[joined(seen[i : i + 5])])) for i in (0, 5, 10)] == [
    [0, 1],
    [1, 2, 3],
    [3, 4],
  ]


@pytest.mark.parametrize("span", [2**31, 10**30, np.array([2**40])])
def test_a_stretch_may_last_longer_than_any_run(span):
  data = federation((TOTAL,), ExampleOrder(drift="label", drift_stretches=5), span)
  assert set(LABELS[joined(drawn(data))]) == {0}


def test_drift_and_correlation_together():
  """Within a stretch sorted by label, batches are in the order of the source."""
  data = federation((TOTAL,), ExampleOrder("source", drift="label", drift_stretches=5), 3)
  for c in range(5):
    ids = [i for i in range(TOTAL) if LABELS[i] == c]
    assert joined(drawn(data)[3 * c : 3 * c + 3]) == ids


def test_clients_may_drift_at_different_paces():
  data = federation((20, 30), ExampleOrder(drift="label", drift_stretches=2), np.array([2, 4]))
  for client, (size, span) in enumerate(((20, 2), (30, 4))):
    start = 20 * client
    halves = np.array_split(data.order[start : start + size], 2)
    for step, batch in enumerate(drawn(data, client)[:12]):
      assert set(batch) <= set(halves[step // span % 2].tolist())


def test_gathered_data_keep_the_order_and_without_drift_all_examples_are_drawn():
  data = federation((21, 29), ExampleOrder("label", 3, "source", 3), 4)
  part = rows(gather(data, np.array([1]), 40), np.zeros(2, int))
  assert drawn(part, 1) == drawn(data, 1)
  first = epochs(drawn(without_drift(data), 1), 29)[0]
  assert sorted(first) == sorted(data.order[21:].tolist())


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"batch_order": "random"}, "random"),
    ({"drift": "time"}, "time"),
    ({"order_block": 3}, "needs --batch_order=label or source"),
    ({"batch_order": "label", "order_block": 0}, "--order_block is 0"),
    ({"drift": "label", "drift_stretches": 1}, "at least 2"),
    ({"drift_stretches": 3}, "needs --drift"),
    ({"drift_rounds": 3}, "needs --drift"),
    ({"drift": "label", "drift_rounds": 0}, "at least 1"),
  ],
)
def test_invalid_orders_are_refused(options, words):
  with pytest.raises(UserError, match=words):
    ExampleOrder(**options)


def test_a_stretch_without_steps_is_refused():
  with pytest.raises(UserError, match="stretch_steps is 0"):
    federation((TOTAL,), ExampleOrder(drift="label"), 0)


@pytest.mark.parametrize(
  ("options", "rounds", "steps", "drift_rounds", "span"),
  [
    ({"drift": "label"}, 10, 1, 5, 5),
    ({"drift": "label", "drift_stretches": 4}, 10, 1, 3, 3),
    ({"drift": "source", "drift_rounds": 7}, 600, 3, 7, 21),
    ({"drift": "label", "drift_rounds": 2**31 - 1}, 600, np.array([1, 3]), 2**31 - 1, [600, 1800]),
    ({}, 10, 3, None, FOREVER),
  ],
)
def test_rounds_of_a_stretch_are_converted_to_steps(options, rounds, steps, drift_rounds, span):
  config = ExampleOrder(**options)
  assert orders.resolve(config, rounds).drift_rounds == drift_rounds
  np.testing.assert_array_equal(orders.steps_per_stretch(config, rounds, steps), span)
