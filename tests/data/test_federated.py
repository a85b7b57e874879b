import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.data.cohorts import cohorts
from fedjax_norm.data.examples import Examples
from fedjax_norm.data.federated import draw, federate, gather, rows, steps_per_epoch
from fedjax_norm.data.partitions.registry import Partition

TOTAL = 60
CLIENTS = 4
STEPS = 60
KEY = jax.random.key(11)


def echo(images, ids, strength, run_key, step_key):
  """Acts as a transform and returns its arguments in the channels of the images."""
  del run_key
  drawn = jax.random.uniform(step_key)
  extra = jnp.stack([ids.astype(jnp.float32), 0 * ids + strength, 0 * ids + drawn], -1)
  return jnp.concatenate([images.reshape(len(ids), 1), extra], -1)


def federation(sizes, order=None, labels=None, images=None):
  """Returns clients of these sizes; an example has the image id / 100 and the label id mod 7."""
  ids = np.arange(TOTAL)
  images = (ids / 100).astype(np.float32) if images is None else images
  labels = ids % 7 if labels is None else labels
  order = np.random.default_rng(0).permutation(TOTAL) if order is None else order
  offsets = np.concatenate([[0], np.cumsum(sizes)])
  examples = Examples(images.reshape(TOTAL, 1, 1, 1), labels)
  data = federate(examples, Partition(order, offsets), np.arange(len(sizes), dtype=np.float32))
  return jax.tree.map(jnp.asarray, data)


@functools.cache
def drawer(batch_size):
  """Returns (data, client, key) -> the client's first ``STEPS`` batches, stacked."""

  def one(data, client, step, key):
    return draw(data, client, step, batch_size, echo, key)

  several = jax.vmap(one, (None, None, 0, None))
  return jax.jit(lambda data, client, key: several(data, client, jnp.arange(STEPS), key))


def batches(data, client, batch_size, key=KEY):
  return jax.tree.map(np.asarray, drawer(batch_size)(data, jnp.int32(client), key))


@st.composite
def client_sizes(draw_from):
  cuts = draw_from(
    st.lists(st.integers(1, TOTAL - 1), min_size=CLIENTS - 1, max_size=CLIENTS - 1, unique=True)
  )
  return tuple(np.diff([0, *sorted(cuts), TOTAL]))


@given(sizes=client_sizes(), batch_size=st.sampled_from([1, 8, 64]))
@settings(max_examples=30)
def test_an_epoch_has_every_example_of_the_client_exactly_once(sizes, batch_size):
  data = federation(sizes)
  owned = np.split(np.asarray(data.order), np.cumsum(sizes)[:-1])
  for client, ids in enumerate(owned):
    epoch = -(-len(ids) // batch_size)
    assert steps_per_epoch(data.sizes, batch_size)[client] == epoch
    all_batches = batches(data, client, batch_size)
    for start in range(0, min(STEPS - epoch + 1, 3 * epoch), epoch):
      images, labels, mask = (a[start : start + epoch] for a in all_batches)
      # Batches are full, except the last, which begins with the remaining examples.
      filled = np.arange(epoch * batch_size).reshape(epoch, batch_size) < len(ids)
      np.testing.assert_array_equal(mask, filled)
      seen = np.rint(images[filled, 0] * 100).astype(int)
      np.testing.assert_array_equal(np.sort(seen), np.sort(ids))
      np.testing.assert_array_equal(labels[filled], seen % 7)
      np.testing.assert_array_equal(images[filled, 1], seen)  # the ids that the transform gets
      assert (images[..., 2] == client).all()  # the client's strength
      # Padding repeats an example of the same client.
      assert np.isin(images[..., 1], ids).all()


@functools.cache
def taker(batch_size):
  """Returns (data, client, take) -> the client's first ``STEPS`` batches, stacked."""

  def one(data, client, step, take):
    return draw(data, client, step, batch_size, echo, KEY, take)

  return jax.jit(lambda *args: jax.vmap(one, (None, None, 0, None))(*args[:2], STEP, args[2]))


STEP = jnp.arange(STEPS)


@given(sizes=client_sizes(), take=st.integers(1, 8))
@settings(max_examples=20)
def test_a_batch_with_take_is_the_smaller_batch_and_padding(sizes, take):
  """The first ``take`` of 8 examples are the batch of size ``take``; epochs are longer."""
  data = federation(sizes)
  owned = np.split(np.asarray(data.order), np.cumsum(sizes)[:-1])
  for client, ids in enumerate(owned):
    drawn = jax.tree.map(np.asarray, taker(8)(data, client, take))
    assert not drawn.mask[:, take:].any()
    epoch = min(-(-len(ids) // take), STEPS)
    seen = drawn.images[:epoch, :, 1][drawn.mask[:epoch] > 0]
    if epoch * take >= len(ids):
      np.testing.assert_array_equal(np.sort(seen), np.sort(ids))
    assert len(np.unique(seen)) == len(seen)
    if take in (1, 8):  # each batch size compiles one program
      for a, b in zip(drawn, batches(data, client, take), strict=True):
        np.testing.assert_array_equal(a[:, :take], b)


def test_epochs_clients_and_keys_have_different_orders():
  data = federation((20, 20, 10, 10))
  order = np.asarray(data.order)

  def positions(client, key=KEY):
    """Returns each epoch's examples as positions in the client's part of the order: [2, 20]."""
    ids = batches(data, client, 8, key=key).images[:6, :, 1].reshape(2, 24)[:, :20]
    client_ids = list(order[20 * client :][:20])
    return np.array([[client_ids.index(i) for i in epoch] for epoch in ids])

  first = positions(0)
  assert (first[0] != first[1]).sum() > 12  # another epoch
  assert (first != positions(1)).sum() > 24  # another client
  assert (first != positions(0, jax.random.key(12))).sum() > 24  # another run


@given(sizes=client_sizes(), chosen=st.permutations(range(CLIENTS)), count=st.integers(1, CLIENTS))
@settings(max_examples=15)
def test_a_gathered_part_draws_the_batches_of_the_whole(sizes, chosen, count):
  """Gathers rows in any order, repeated, with spare capacity."""
  data = federation(sizes)
  index = np.array(chosen[:count])
  host = jax.tree.map(np.asarray, data)
  room = TOTAL + 3
  part = rows(gather(host, index, room), np.resize(np.arange(count), CLIENTS))
  total = int(host.sizes[index].sum())
  assert part.images.shape == (room, 1, 1, 1)
  np.testing.assert_array_equal(part.ids[:total], np.unique(part.ids[:total]))  # as a file is read
  assert not part.images[total:].any()
  for row, client in enumerate(np.resize(index, CLIENTS)):
    for a, b in zip(batches(part, row, 8), batches(data, client, 8), strict=True):
      np.testing.assert_array_equal(a, b)


def test_the_keys_of_a_transform_differ_by_step_and_client():
  data = federation((20, 20, 10, 10))
  drawn = np.stack([batches(data, k, 8).images[:, 0, 3] for k in range(4)])
  assert len(np.unique(drawn)) == 4 * STEPS


def test_a_batch_does_not_depend_on_other_clients():
  data = federation((10, 20, 15, 15))
  before = batches(data, 1, 8)
  # The other clients' data, order and number change, and so does this client's offset.
  client_ids = np.asarray(data.order)[10:30]
  others = np.setdiff1d(np.arange(TOTAL), client_ids)
  foreign = np.isin(np.arange(TOTAL), others)
  images = np.where(foreign, 9.0, np.arange(TOTAL) / 100).astype(np.float32)
  labels = np.where(foreign, 0, np.arange(TOTAL) % 7)
  changed = federation(
    (25, 20, 5, 10), np.concatenate([others[:25], client_ids, others[25:]]), labels, images
  )
  for a, b in zip(before, batches(changed, 1, 8), strict=True):
    np.testing.assert_array_equal(a, b)


@functools.cache
def cohort_drawer(num_clients, size, rounds):
  return jax.jit(lambda key, first: cohorts(key, first, rounds, num_clients, size))


@given(first=st.integers(0, 10_000), seed=st.integers(0, 2**31))
@settings(max_examples=30)
def test_cohorts_are_drawn_without_replacement_by_key_and_round_alone(first, seed):
  key = jax.random.key(seed)
  ids = np.asarray(cohort_drawer(50, 12, 6)(key, jnp.int32(first)))
  assert all(len(np.unique(row)) == 12 for row in ids)
  assert ids.min() >= 0
  assert ids.max() < 50
  # The same rounds in other intervals.
  later = np.asarray(cohort_drawer(50, 12, 6)(key, jnp.int32(first + 2)))
  np.testing.assert_array_equal(later[:4], ids[2:])
  np.testing.assert_array_equal(cohort_drawer(50, 12, 1)(key, jnp.int32(first + 5))[0], ids[5])
  assert len({tuple(row) for row in ids}) == 6
  assert not np.array_equal(cohort_drawer(50, 12, 6)(jax.random.key(seed + 1), first), ids)


def test_all_clients_take_part_in_their_order_when_the_cohort_is_the_population():
  ids = cohort_drawer(5, 5, 3)(KEY, jnp.int32(4))
  np.testing.assert_array_equal(ids, np.tile(np.arange(5), (3, 1)))


def test_cohorts_cover_the_population_evenly():
  ids = np.asarray(cohort_drawer(50, 12, 2000)(KEY, jnp.int32(0)))
  counts = np.bincount(ids.ravel(), minlength=50)
  # Each round picks a client with probability 12 / 50: mean 480, standard deviation 19.
  assert abs(counts - 480).max() < 4.5 * 19.1


def test_the_cost_does_not_depend_on_the_population():
  # No computation has the size of the population.
  def operations(num_clients):
    lowered = jax.jit(lambda key: cohorts(key, 0, 4, num_clients, 10)).lower(KEY)
    return lowered.compile().cost_analysis()["flops"]

  assert operations(100_000) == pytest.approx(operations(100), rel=0.1)
  large = cohort_drawer(100_000, 10, 200)
  ids = np.asarray(large(KEY, jnp.int32(0)))
  assert all(len(np.unique(row)) == 10 for row in ids)
  assert len(np.unique(ids)) > 1900  # about 20 of 2000 draws repeat a client
  assert ids.max() > 95_000
  started = time.perf_counter()
  large(KEY, jnp.int32(200)).block_until_ready()
  assert time.perf_counter() - started < 1.0  # permuting 100,000 takes 0.1 s per round
