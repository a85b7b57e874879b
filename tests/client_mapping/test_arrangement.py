"""Clients of a round are arranged so that devices are busy although clients are unequal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_norm import client_mapping
from fedjax_norm.client_mapping import arrangement
from fedjax_norm.data.partitions import label_skew


def taken(steps, slots, devices, size):
  """Returns the steps that the slowest device takes, by a loop."""
  loads = []
  for share in np.split(slots, devices):
    chunks = np.split(share, len(share) // size)
    loads.append(sum(max(steps[k] if k >= 0 else 0 for k in chunk) for chunk in chunks))
  return max(loads)


@given(
  steps=st.lists(st.integers(1, 50), min_size=1, max_size=30),
  devices=st.integers(1, 4),
  chunk=st.integers(1, 6),
)
def test_every_client_has_one_slot_and_chunks_hold_similar_clients(steps, devices, chunk):
  steps = np.array(steps)
  share = -(-len(steps) // devices)
  chunks, size = client_mapping.ClientMapping("shard_map", chunk).divide(share)
  assert share <= chunks * size < share + chunks
  assert size <= chunk
  slots = arrangement.arrange(steps, devices, chunks, size)
  assert len(slots) == devices * chunks * size
  np.testing.assert_array_equal(np.sort(slots[slots >= 0]), np.arange(len(steps)))
  # From most to fewest steps, the chunks are consecutive clients; equal ones stay in their order.
  padded = np.append(steps, 0)
  groups = sorted(slots.reshape(-1, size), key=lambda g: (-padded[g[0]], g[0] % len(padded)))
  ranks = [(-padded[k], k % len(padded)) for group in groups for k in group]
  assert ranks == sorted(ranks)
  expected = steps.sum() / (devices * size * taken(steps, slots, devices, size))
  assert arrangement.busy_share(steps, slots, devices, size) == pytest.approx(expected)


@pytest.mark.parametrize(("devices", "before"), [(2, 1.07), (4, 1.2), (8, 1.5)])
def test_devices_take_equal_steps_with_skewed_clients(devices, before):
  """Fifty clients with Dirichlet(0.1) label skew; nothing is faster than perfect division."""
  ratios = []
  for seed in range(20):
    rng = np.random.default_rng(seed)
    owners = label_skew.dirichlet(rng.integers(0, 10, 10_000), 50, rng, alpha=0.1)
    steps = -(-np.bincount(owners, minlength=50) // 10)
    best = max(steps.sum() / devices, steps.max())
    width = -(-50 // devices)
    in_order = np.pad(np.arange(50), (0, devices * width - 50), constant_values=-1)
    slots = arrangement.arrange(steps, devices, width, 1)
    ratios.append([taken(steps, order, devices, 1) / best for order in (in_order, slots)])
  in_order, arranged = np.mean(ratios, 0)
  assert in_order > before
  assert arranged < 1.01


def test_chunks_take_fewer_steps():
  """Fifty of 1000 clients with Dirichlet sizes, eight at a time."""
  sizes = np.random.default_rng(0).dirichlet(np.full(1000, 0.5))[:50] * 50_000
  steps = np.maximum(1, -(-sizes // 10)).astype(int)
  mapping = client_mapping.create("vmap", num_clients=50, chunk=8)
  slots, size = mapping.arrange(steps), mapping.chunk
  in_order = np.pad(np.arange(50), (0, len(slots) - 50), constant_values=-1)
  before, after = (taken(steps, order, 1, size) for order in (in_order, slots))
  assert after < 0.7 * before
  assert after * size >= steps.sum()


@pytest.mark.host_devices
def test_the_order_stays_where_it_does_not_matter():
  steps = np.array([1, 5, 3, 4])
  for options in ({"backend": "vmap"}, {"backend": "scan"}, {"lockstep": True}):
    mapping = client_mapping.create(num_clients=4, **options)
    assert mapping.arrange(steps).tolist() == [0, 1, 2, 3]
  divided = client_mapping.create("shard_map", num_clients=4)
  assert divided.arrange(steps).tolist() == [1, 0, 3, 2]
