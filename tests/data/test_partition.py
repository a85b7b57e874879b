"""Invariants of all partitions, partitions without label skew, errors, and the options."""

import time

import numpy as np
import pytest
from helpers.small_data import BALANCED, class_counts, label_lists
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.partitions.registry import PartitionConfig
from fedjax_norm.errors import UserError


def check(made, labels, num_clients):
  """Asserts the invariants of every partition."""
  assert made.order.dtype == np.int32
  assert made.offsets.dtype == np.int64
  np.testing.assert_array_equal(np.sort(made.order), np.arange(len(labels)))
  assert made.offsets.shape == (num_clients + 1,)
  assert made.offsets[0] == 0
  assert made.offsets[-1] == len(labels)
  sizes = partitions.sizes(made)
  assert sizes.min() >= 1
  counts = partitions.counts(made, labels, int(labels.max()) + 1)
  np.testing.assert_array_equal(counts.sum(1), sizes)
  np.testing.assert_array_equal(counts.sum(0), np.bincount(labels))
  owners = partitions.owners(made)
  for k in range(min(num_clients, 5)):
    np.testing.assert_array_equal(np.sort(partitions.client(made, k)), np.flatnonzero(owners == k))


cases = st.one_of(
  st.tuples(st.just("iid"), st.just({})),
  st.tuples(st.just("feature"), st.just({})),
  st.tuples(st.just("contiguous"), st.just({})),
  st.tuples(st.just("classes"), st.fixed_dictionaries({"classes_per_client": st.integers(1, 7)})),
  st.tuples(
    st.just("random_classes"), st.fixed_dictionaries({"classes_per_client": st.integers(1, 7)})
  ),
  st.tuples(st.just("ratio"), st.fixed_dictionaries({"ratio": st.floats(0, 1)})),
  st.tuples(st.just("skew"), st.fixed_dictionaries({"fraction": st.floats(0, 1)})),
  st.tuples(st.just("dominant"), st.fixed_dictionaries({"dominant_share": st.floats(0.5, 1)})),
  st.tuples(
    st.just("dirichlet"),
    st.fixed_dictionaries(
      {"alpha": st.floats(0.001, 100), "min_size": st.integers(1, 3), "cap_sizes": st.booleans()},
      optional={"correlation": st.floats(0, 1), "neighbours": st.integers(2, 5)},
    ),
  ),
  st.tuples(
    st.just("quantity"),
    st.fixed_dictionaries({"exponent": st.floats(0, 5), "min_size": st.integers(1, 3)}),
  ),
  st.tuples(st.just("quantity"), st.fixed_dictionaries({"alpha": st.floats(0.01, 100)})),
)


@settings(max_examples=250)
@given(labels=label_lists, case=cases, num_clients=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_a_partition_has_the_invariants_or_raises_one_sentence(labels, case, num_clients, seed):
  name, options = case
  try:
    made = partitions.make(name, labels, num_clients, seed, **options)
  except UserError as error:
    text = str(error)
    assert text.endswith((".", ").")), text
    assert "\n" not in text
    return
  check(made, labels, num_clients)
  again = partitions.make(name, labels, num_clients, seed, **options)
  np.testing.assert_array_equal(made.order, again.order)
  np.testing.assert_array_equal(made.offsets, again.offsets)


@settings(max_examples=60)
@given(labels=label_lists, num_clients=st.integers(1, 12), fraction=st.floats(0, 1))
def test_iid_and_skew_always_succeed_with_even_sizes(labels, num_clients, fraction):
  assume(num_clients <= len(labels))
  for name, options in (("iid", {}), ("skew", {"fraction": fraction})):
    made = partitions.make(name, labels, num_clients, 0, **options)
    assert np.ptp(partitions.sizes(made)) <= 1


@pytest.mark.parametrize("num_clients", [1, 3, 4])
def test_contiguous_clients_have_consecutive_parts_of_the_source(num_clients):
  made = partitions.make("contiguous", np.arange(11) % 2, num_clients, seed=7)
  parts = [np.sort(partitions.client(made, k)) for k in range(num_clients)]
  for part, expected in zip(parts, np.array_split(np.arange(11), num_clients), strict=True):
    np.testing.assert_array_equal(part, expected)


def test_quantity_follows_the_power_law_and_keeps_labels_even():
  labels = np.repeat(np.arange(2), 5500)
  counts = class_counts("quantity", labels, 4, exponent=1.0)
  weights = 1 / np.arange(1, 5)
  expected = 1 + (11000 - 4) * weights / weights.sum()
  np.testing.assert_allclose(np.sort(counts.sum(1))[::-1], expected, atol=1)
  share = counts[:, 0] / counts.sum(1)
  assert (np.abs(share - 0.5) < 0.08).all()


def test_quantity_without_skew_is_even():
  made = partitions.make("quantity", BALANCED, 7, 0, exponent=0)
  assert np.ptp(partitions.sizes(made)) <= 1


def test_natural_clients_are_numbered_in_order():
  clients = np.tile([7, 3, 30, 3], 25)
  labels = np.arange(100) % 10
  for num_clients in (0, None, 3):
    made = partitions.make("natural", labels, num_clients, 0, clients=clients)
    check(made, labels, 3)
    np.testing.assert_array_equal(np.asarray([3, 7, 30])[partitions.owners(made)], clients)


@pytest.mark.parametrize("name", [n for n in partitions.OPTIONS if n != "natural"])
def test_the_seed_changes_the_division(name):
  owners = [partitions.owners(partitions.make(name, BALANCED, 10, seed)) for seed in (0, 1)]
  orders = [partitions.make(name, BALANCED, 10, seed).order for seed in (0, 1)]
  assert not np.array_equal(*orders)
  # With their default options these partitions fix each client's classes or examples.
  if name not in ("contiguous", "ratio", "skew"):
    assert not np.array_equal(*owners)


@pytest.mark.parametrize("name", list(partitions.OPTIONS))
def test_clients_hold_their_examples_in_random_order(name):
  options = {"clients": BALANCED} if name == "natural" else {}
  made = partitions.make(name, BALANCED, 10, 0, **options)
  ids = partitions.client(made, 0)
  assert (np.diff(ids) < 0).any()


@pytest.mark.parametrize(
  ("name", "clients", "options", "words"),
  [
    ("nothing", 2, {}, "no partition 'nothing'"),
    ("iid", 2, {"alpha": 1.0}, "does not use the option 'alpha'"),
    ("iid", 0, {}, "at least 1"),
    ("iid", None, {}, "at least 1"),
    ("iid", -3, {}, "at least 1"),
    ("iid", 2.5, {}, "at least 1"),
    ("iid", 1001, {}, "use fewer clients"),
    ("classes", 10, {"classes_per_client": 11}, "from 1 to 10"),
    ("classes", 10, {"classes_per_client": 0}, "from 1 to 10"),
    ("classes", 4, {"classes_per_client": 2}, "from 3 to 10"),
    ("classes", 4, {"classes_per_client": 2.5}, "classes_per_client"),
    ("classes", 1000, {"classes_per_client": 2}, "too few examples"),
    ("random_classes", 9, {}, "at least 10 clients, one per class"),
    ("random_classes", 10, {"classes_per_client": 11}, "from 1 to 10"),
    ("random_classes", 1000, {"classes_per_client": 2}, "too small for its"),
    ("ratio", 2, {"ratio": -0.1}, "ratio"),
    ("ratio", 2, {"ratio": 1.1}, "ratio"),
    ("ratio", 2, {"ratio": float("nan")}, "ratio"),
    ("ratio", 2, {"ratio": "half"}, "ratio"),
    ("ratio", 1, {}, "from 2 to 10"),
    ("ratio", 11, {}, "from 2 to 10"),
    ("skew", 2, {"fraction": 2}, "fraction"),
    ("dominant", 1, {}, "at least 2 clients"),
    ("dominant", 10, {"dominant_share": 0.3}, "dominant_share"),
    ("dirichlet", 2, {"alpha": 0}, "alpha"),
    ("dirichlet", 2, {"alpha": -1}, "alpha"),
    ("dirichlet", 2, {"alpha": float("inf")}, "alpha"),
    ("dirichlet", 10, {"min_size": 101}, "min_size"),
    ("dirichlet", 10, {"min_size": 0}, "min_size"),
    ("dirichlet", 500, {"alpha": 0.01}, "50 draws"),
    ("dirichlet", 2, {"correlation": 1.1}, "correlation"),
    ("dirichlet", 4, {"correlation": 0.5, "neighbours": 1}, "from 2 to 4"),
    ("dirichlet", 4, {"correlation": 0.5, "neighbours": 5}, "from 2 to 4"),
    ("dirichlet", 1, {"correlation": 0.5}, "at least 2 clients"),
    ("dirichlet", 4, {"neighbours": 2}, "needs the option correlation"),
    ("quantity", 2, {"alpha": 1, "exponent": 1}, "not both; drop one of them"),
    ("quantity", 2, {"exponent": -1}, "exponent"),
    ("quantity", 10, {"min_size": 101}, "min_size"),
    ("natural", 0, {}, "no natural clients"),
    ("natural", 3, {"clients": np.arange(1000) % 4}, "4 clients, not 3; give 4 clients, or choose"),
    ("natural", 0, {"clients": np.arange(999)}, "1000 integers"),
    ("natural", 0, {"clients": np.arange(1000) - 1}, "1000 integers"),
    ("natural", 0, {"clients": np.zeros(1000)}, "1000 integers"),
  ],
)
def test_impossible_partitions_are_refused(name, clients, options, words):
  with pytest.raises(UserError, match=words):
    partitions.make(name, BALANCED, clients, 0, **options)


@pytest.mark.parametrize(
  "labels", [np.zeros(0, int), np.zeros(3), np.zeros((3, 1), int), np.asarray([0, -1])]
)
def test_bad_labels_are_refused(labels):
  with pytest.raises(UserError, match="labels"):
    partitions.make("iid", labels, 1, 0)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_bad_seeds_are_refused(seed):
  with pytest.raises(UserError, match="seed"):
    partitions.make("iid", BALANCED, 1, seed)


def test_helpers_refuse_what_is_out_of_range():
  made = partitions.make("iid", BALANCED, 4, 0)
  for k in (-1, 4):
    with pytest.raises(UserError, match="no client"):
      partitions.client(made, k)
  with pytest.raises(UserError, match="labels"):
    partitions.counts(made, BALANCED, 9)
  with pytest.raises(UserError, match="labels"):
    partitions.counts(made, BALANCED[1:], 10)


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("iid", {}),
    ("quantity", {"alpha": 0.5}),
    ("dirichlet", {"alpha": 100.0}),
    ("natural", {"clients": np.arange(500_000) % 100_000}),
  ],
)
def test_a_hundred_thousand_clients_take_seconds(name, options):
  labels = np.random.default_rng(0).integers(0, 10, 500_000 if name != "dirichlet" else 1_000_000)
  start = time.perf_counter()
  made = partitions.make(name, labels, 100_000, 0, **options)
  # A loop over clients times examples would take hours; the limit allows for a busy machine.
  assert time.perf_counter() - start < 10
  assert partitions.sizes(made).min() >= 1


@pytest.mark.parametrize(
  ("options", "owners", "resolved"),
  [
    ({}, None, {"partition": "classes", "clients": 10, "classes_per_client": 1}),
    ({"clients": 3}, None, {"partition": "classes", "clients": 3, "classes_per_client": 4}),
    ({}, np.arange(1000) % 7 * 2, {"partition": "natural", "clients": 7}),
    ({"partition": "iid"}, np.arange(1000) % 7, {"partition": "iid", "clients": 10}),
    ({"partition": "dirichlet"}, None, {"clients": 10, "alpha": 0.5, "min_size": 1}),
    ({"partition": "dirichlet", "alpha": 2.0}, None, {"alpha": 2.0}),
    ({"partition": "quantity"}, None, {"alpha": None, "exponent": None, "cap_sizes": None}),
    ({"partition": "random_classes"}, None, {"clients": 10, "classes_per_client": 2}),
  ],
)
def test_defaults_follow_from_the_data(options, owners, resolved):
  config = PartitionConfig(**options)
  filled = partitions.resolve(config, BALANCED, owners)
  assert {name: getattr(filled, name) for name in resolved} == resolved
  assert partitions.resolve(filled, BALANCED, owners) == filled
  one, same = (partitions.from_config(c, BALANCED, owners, 3) for c in (config, filled))
  np.testing.assert_array_equal(one.order, same.order)
  assert len(one.offsets) - 1 == filled.clients


def test_from_config_makes_the_partition_of_the_options():
  config = PartitionConfig(clients=5, partition="skew", fraction=0.6)
  made = partitions.make("skew", BALANCED, 5, 3, fraction=0.6)
  np.testing.assert_array_equal(partitions.from_config(config, BALANCED, None, 3).order, made.order)


@pytest.mark.parametrize(
  ("options", "owners", "words"),
  [
    ({"alpha": 0.5}, None, "--alpha does nothing here: it needs --partition=dirichlet or quantity"),
    ({"partition": "iid", "ratio": 0.1}, None, "--ratio .* needs --partition=ratio;"),
    ({"classes_per_client": 2}, BALANCED, "--classes_per_client .* --partition=classes or random_"),
    ({"partition": "dirichlet", "neighbours": 3}, None, "--neighbours .* needs --correlation"),
    ({"partition": "natural"}, None, "names the client of each example"),
    ({"partition": "natural", "clients": 3}, BALANCED, "names 10 clients, not 3"),
    ({"clients": 0}, None, "--clients is 0; it must be at least 1"),
    ({"relabelled": 1.5}, None, "--relabelled is 1.5"),
  ],
)
def test_contradictory_options_are_refused(options, owners, words):
  with pytest.raises(UserError, match=words):
    partitions.from_config(PartitionConfig(**options), BALANCED, owners, 0)
