"""Partitions: exact invariants, the papers' examples by hand, refusals."""

import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedjax_norm.data import train_test_split
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.partitions.registry import PartitionConfig
from fedjax_norm.errors import UserError

BALANCED = np.repeat(np.arange(10), 100)


def table(name, labels, num_clients, seed=0, **options):
  made = partitions.make(name, labels, num_clients, seed, **options)
  return partitions.counts(made, labels, int(labels.max()) + 1)


def check(made, labels, num_clients):
  """What every partition promises."""
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


label_lists = st.lists(st.integers(0, 6), min_size=1, max_size=120).map(np.asarray)
cases = st.one_of(
  st.tuples(st.just("iid"), st.just({})),
  st.tuples(st.just("feature"), st.just({})),
  st.tuples(st.just("contiguous"), st.just({})),
  st.tuples(st.just("classes"), st.fixed_dictionaries({"classes_per_client": st.integers(1, 7)})),
  st.tuples(st.just("ratio"), st.fixed_dictionaries({"ratio": st.floats(0, 1)})),
  st.tuples(st.just("skew"), st.fixed_dictionaries({"fraction": st.floats(0, 1)})),
  st.tuples(st.just("dominant"), st.fixed_dictionaries({"dominant_share": st.floats(0.5, 1)})),
  st.tuples(
    st.just("dirichlet"),
    st.fixed_dictionaries({"alpha": st.floats(0.01, 100), "min_size": st.integers(1, 3)}),
  ),
  st.tuples(
    st.just("quantity"),
    st.fixed_dictionaries({"exponent": st.floats(0, 5), "min_size": st.integers(1, 3)}),
  ),
  st.tuples(st.just("quantity"), st.fixed_dictionaries({"alpha": st.floats(0.01, 100)})),
)


@settings(max_examples=250, deadline=None)
@given(labels=label_lists, case=cases, num_clients=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_a_partition_keeps_its_promises_or_is_refused_in_one_sentence(
  labels, case, num_clients, seed
):
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


@settings(max_examples=60, deadline=None)
@given(labels=label_lists, num_clients=st.integers(1, 12), fraction=st.floats(0, 1))
def test_iid_and_skew_are_never_refused_and_even(labels, num_clients, fraction):
  assume(num_clients <= len(labels))
  for name, options in (("iid", {}), ("skew", {"fraction": fraction})):
    made = partitions.make(name, labels, num_clients, 0, **options)
    assert np.ptp(partitions.sizes(made)) <= 1


@pytest.mark.parametrize("num_clients", [1, 3, 4])
def test_contiguous_clients_are_the_source_cut_up(num_clients):
  made = partitions.make("contiguous", np.arange(11) % 2, num_clients, seed=7)
  stretches = [np.sort(partitions.client(made, k)) for k in range(num_clients)]
  for held, expected in zip(stretches, np.array_split(np.arange(11), num_clients), strict=True):
    np.testing.assert_array_equal(held, expected)


@settings(max_examples=100, deadline=None)
@given(
  labels=label_lists, num_clients=st.integers(1, 8), each=st.integers(1, 7), seed=st.integers(0, 99)
)
def test_classes_are_exactly_k_each_and_refused_only_where_impossible(
  labels, num_clients, each, seed
):
  sizes = np.bincount(labels)
  sizes = sizes[sizes > 0]
  possible = (
    len(sizes) <= num_clients * each
    and each <= len(sizes)
    and np.minimum(sizes, num_clients).sum() >= num_clients * each
    and num_clients <= len(labels)
  )
  if not possible:
    with pytest.raises(UserError):
      partitions.make("classes", labels, num_clients, seed, classes_per_client=each)
    return
  counts = table("classes", labels, num_clients, seed, classes_per_client=each)
  np.testing.assert_array_equal((counts > 0).sum(1), each)
  assert ((counts > 0).any(0) == (np.bincount(labels) > 0)).all()


@pytest.mark.parametrize(("num_clients", "each"), [(10, 2), (10, 1), (5, 2), (10, 10), (20, 3)])
def test_balanced_classes_give_even_clients(num_clients, each):
  counts = table("classes", BALANCED, num_clients, classes_per_client=each)
  np.testing.assert_array_equal((counts > 0).sum(1), each)
  assert np.ptp(counts.sum(1)) <= 1


def test_classes_that_do_not_divide_are_evened_out():
  # 12 places for 10 classes: two classes are shared, and their split makes up for the others.
  assert np.ptp(table("classes", BALANCED, 3, classes_per_client=4).sum(1)) <= 2


def test_classes_of_different_sizes_are_held_by_more_clients_when_larger():
  labels = np.repeat([0, 1], [900, 100])
  counts = table("classes", labels, 10, classes_per_client=1)
  np.testing.assert_array_equal((counts > 0).sum(0), [9, 1])
  np.testing.assert_array_equal(counts.sum(1), 100)


def test_who_holds_a_rare_class_is_chance():
  labels = np.repeat([0, 1], [900, 100])
  holders = {
    int(table("classes", labels, 10, seed, classes_per_client=1)[:, 1].argmax())
    for seed in range(30)
  }
  assert len(holders) >= 6


def test_the_classes_that_meet_depend_on_the_seed():
  held = {
    tuple(map(tuple, table("classes", BALANCED, 10, seed, classes_per_client=2) > 0))
    for seed in range(5)
  }
  assert len(held) == 5


@pytest.mark.parametrize(
  ("ratio", "worker_1", "worker_2"),
  [
    (0.0, [0] * 5 + [100] * 5, [100] * 5 + [0] * 5),
    (0.25, [25] * 5 + [75] * 5, [75] * 5 + [25] * 5),
    (0.5, [50] * 10, [50] * 10),
    (1.0, [100] * 5 + [0] * 5, [0] * 5 + [100] * 5),
  ],
)
def test_two_workers_hold_what_equations_9_and_10_of_paper_000_say(ratio, worker_1, worker_2):
  counts = table("ratio", BALANCED, 2, ratio=ratio)
  np.testing.assert_array_equal(counts, [worker_1, worker_2])


def test_more_workers_share_the_rest_evenly():
  labels = np.repeat(np.arange(6), 120)
  counts = table("ratio", labels, 3, ratio=0.5)
  own, other = 60, 30
  np.testing.assert_array_equal(
    counts,
    [[other] * 2 + [own] * 2 + [other] * 2, [other] * 4 + [own] * 2, [own] * 2 + [other] * 4],
  )
  np.testing.assert_array_equal(table("ratio", labels, 3, ratio=2 / 3), np.full((3, 6), 40))


@settings(max_examples=60, deadline=None)
@given(labels=label_lists, ratio=st.floats(0, 1))
def test_each_class_of_a_ratio_is_within_one_example_of_its_share(labels, ratio):
  classes = np.unique(labels)
  assume(len(classes) >= 2)
  try:
    counts = table("ratio", labels, 2, ratio=ratio)[:, classes]
  except UserError:
    return
  first = np.arange(len(classes)) < -(-len(classes) // 2)
  exact = np.where(first, ratio, 1 - ratio) * np.bincount(labels)[classes]
  assert np.abs(counts[0] - exact).max() < 1 + 1e-9


def test_a_fully_skewed_partition_is_sorted_by_label():
  counts = table("skew", BALANCED, 5, fraction=1.0)
  np.testing.assert_array_equal(counts, np.kron(np.eye(5, dtype=int), [[100, 100]]))


def test_a_partly_skewed_partition_has_the_fraction_on_top_of_chance():
  labels = np.repeat(np.arange(5), 1000)
  counts = table("skew", labels, 5, fraction=0.6)
  own = np.diag(counts)
  # 600 by label, and a fifth of the 400 that are dealt uniformly (standard deviation 8).
  assert (np.abs(own - 680) < 45).all()
  assert (np.abs(counts[~np.eye(5, dtype=bool)] - 80) < 45).all()


def test_dominant_is_eighty_percent_of_one_class_and_twenty_of_the_next():
  expected = 80 * np.eye(10, dtype=int) + 20 * np.roll(np.eye(10, dtype=int), 1, axis=1)
  np.testing.assert_array_equal(table("dominant", BALANCED, 10), expected)
  np.testing.assert_array_equal(
    table("dominant", BALANCED, 20), np.concatenate([expected, expected]) // 2
  )


def test_dominant_with_fewer_clients_goes_by_blocks_of_classes():
  counts = table("dominant", BALANCED, 5, dominant_share=0.7)
  blocks = 70 * np.eye(5, dtype=int) + 30 * np.roll(np.eye(5, dtype=int), 1, axis=1)
  np.testing.assert_array_equal(counts, np.kron(blocks, [[1, 1]]))


def test_dominant_keeps_its_share_of_each_class_when_clients_do_not_divide():
  counts = table("dominant", BALANCED, 13)
  for k in range(13):
    assert set(np.flatnonzero(counts[k])) == {k % 10, (k + 1) % 10}
  for c in range(10):
    assert counts[np.arange(13) % 10 == c, c].sum() == 80


def test_dirichlet_goes_from_one_class_to_all():
  labels = np.repeat(np.arange(10), 500)
  shares = [
    (counts / counts.sum(1, keepdims=True)).max(1).mean()
    for counts in (table("dirichlet", labels, 10, alpha=a) for a in (0.05, 1.0, 1000.0))
  ]
  assert shares[0] > 0.6 > shares[1] > 0.15 > shares[2]


def test_dirichlet_draws_again_until_all_have_enough():
  made = partitions.make("dirichlet", BALANCED, 10, 0, alpha=0.5, min_size=30)
  assert partitions.sizes(made).min() >= 30


def test_quantity_follows_the_power_law_and_keeps_labels_even():
  labels = np.repeat(np.arange(2), 5500)
  counts = table("quantity", labels, 4, exponent=1.0)
  weights = 1 / np.arange(1, 5)
  expected = 1 + (11000 - 4) * weights / weights.sum()
  np.testing.assert_allclose(np.sort(counts.sum(1))[::-1], expected, atol=1)
  share = counts[:, 0] / counts.sum(1)
  assert (np.abs(share - 0.5) < 0.08).all()


def test_quantity_without_skew_is_even():
  made = partitions.make("quantity", BALANCED, 7, 0, exponent=0)
  assert np.ptp(partitions.sizes(made)) <= 1


def test_natural_clients_are_kept_and_numbered_in_order():
  clients = np.tile([7, 3, 30, 3], 25)
  labels = np.arange(100) % 10
  for asked in (0, None, 3):
    made = partitions.make("natural", labels, asked, 0, clients=clients)
    check(made, labels, 3)
    np.testing.assert_array_equal(np.asarray([3, 7, 30])[partitions.owners(made)], clients)


@pytest.mark.parametrize("name", [n for n in partitions.OPTIONS if n != "natural"])
def test_the_seed_changes_the_division(name):
  owners = [partitions.owners(partitions.make(name, BALANCED, 10, seed)) for seed in (0, 1)]
  orders = [partitions.make(name, BALANCED, 10, seed).order for seed in (0, 1)]
  assert not np.array_equal(*orders)
  # Their defaults leave no chance in who holds what.
  if name not in ("contiguous", "ratio", "skew"):
    assert not np.array_equal(*owners)


@pytest.mark.parametrize("name", list(partitions.OPTIONS))
def test_clients_hold_their_examples_in_random_order(name):
  options = {"clients": BALANCED} if name == "natural" else {}
  made = partitions.make(name, BALANCED, 10, 0, **options)
  ids = partitions.client(made, 0)
  assert (np.diff(ids) < 0).any()


def test_labels_with_gaps_are_classes_all_the_same():
  labels = np.repeat([2, 5, 9], 10)
  np.testing.assert_array_equal(
    table("classes", labels, 3, classes_per_client=1).max(1), [10, 10, 10]
  )


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
    ("quantity", 2, {"alpha": 1, "exponent": 1}, "give one"),
    ("quantity", 2, {"exponent": -1}, "exponent"),
    ("quantity", 10, {"min_size": 101}, "min_size"),
    ("natural", 0, {}, "no natural clients"),
    ("natural", 3, {"clients": np.arange(1000) % 4}, "4 clients, not 3; leave out .* or choose"),
    ("natural", 0, {"clients": np.arange(999)}, "1000 integers"),
    ("natural", 0, {"clients": np.arange(1000) - 1}, "1000 integers"),
    ("natural", 0, {"clients": np.zeros(1000)}, "1000 integers"),
  ],
)
def test_the_impossible_is_refused(name, clients, options, words):
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


def test_one_class_cannot_dominate():
  with pytest.raises(UserError, match="2 classes"):
    partitions.make("dominant", np.zeros(10, int), 2, 0)


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
  # A loop over clients times examples would take hours; the bound leaves room for a busy machine.
  assert time.perf_counter() - start < 10
  assert partitions.sizes(made).min() >= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.integers(0, 10**6))
def test_apportioned_shares_sum_and_stay_within_one(weights, total):
  shares = train_test_split.apportion(np.asarray(weights), total)
  assert shares.sum() == total
  if sum(weights) > 0:
    exact = total * np.asarray(weights) / sum(weights)
    assert np.abs(shares - exact).max() < 1 + 1e-6


def test_a_stratified_split_is_exact_and_disjoint():
  strata = np.repeat([0, 1, 2], [50, 30, 20])
  train, test = train_test_split.stratified_split(strata, 20, 3)
  np.testing.assert_array_equal(np.bincount(strata[test]), [10, 6, 4])
  np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(100))
  assert not np.array_equal(test, train_test_split.stratified_split(strata, 20, 4)[1])


def test_no_stratum_gives_its_last_example_to_the_test_set():
  strata = np.concatenate([np.arange(6), np.full(14, 9)])
  train, test = train_test_split.stratified_split(strata, 15, 0)
  assert set(strata[train]) == set(strata)
  assert len(test) > 0


# The options of a run.


@pytest.mark.parametrize(
  ("options", "owners", "in_force"),
  [
    ({}, None, {"partition": "classes", "clients": 10, "classes_per_client": 1}),
    ({"clients": 3}, None, {"partition": "classes", "clients": 3, "classes_per_client": 4}),
    ({}, np.arange(1000) % 7 * 2, {"partition": "natural", "clients": 7}),
    ({"partition": "iid"}, np.arange(1000) % 7, {"partition": "iid", "clients": 10}),
    ({"partition": "dirichlet"}, None, {"clients": 10, "alpha": 0.5, "min_size": 1}),
    ({"partition": "dirichlet", "alpha": 2.0}, None, {"alpha": 2.0}),
    ({"partition": "quantity"}, None, {"alpha": None, "exponent": None}),
  ],
)
def test_what_is_not_given_follows_from_the_data(options, owners, in_force):
  config = PartitionConfig(**options)
  resolved = partitions.resolve(config, BALANCED, owners)
  assert {name: getattr(resolved, name) for name in in_force} == in_force
  assert partitions.resolve(resolved, BALANCED, owners) == resolved
  one, same = (partitions.from_config(c, BALANCED, owners, 3) for c in (config, resolved))
  np.testing.assert_array_equal(one.order, same.order)
  assert len(one.offsets) - 1 == resolved.clients


def test_a_configuration_divides_as_its_options_by_hand():
  config = PartitionConfig(clients=5, partition="skew", fraction=0.6)
  made = partitions.make("skew", BALANCED, 5, 3, fraction=0.6)
  np.testing.assert_array_equal(partitions.from_config(config, BALANCED, None, 3).order, made.order)


@pytest.mark.parametrize(
  ("options", "owners", "words"),
  [
    ({"alpha": 0.5}, None, "--alpha does nothing here: it needs --partition=dirichlet or quantity"),
    ({"partition": "iid", "ratio": 0.1}, None, "--ratio .* needs --partition=ratio;"),
    ({"classes_per_client": 2}, BALANCED, "--classes_per_client .* needs --partition=classes;"),
    ({"partition": "natural"}, None, "names the client of each example"),
    ({"partition": "natural", "clients": 3}, BALANCED, "names 10 clients, not 3"),
    ({"clients": 0}, None, "--clients is 0; it must be at least 1"),
    ({"relabelled": 1.5}, None, "--relabelled is 1.5"),
  ],
)
def test_options_that_cannot_be_are_refused(options, owners, words):
  with pytest.raises(UserError, match=words):
    partitions.from_config(PartitionConfig(**options), BALANCED, owners, 0)
