"""Partitions with label skew against the papers' examples by hand, and their exact invariants."""

import numpy as np
import pytest
from helpers.small_data import BALANCED, class_counts, label_lists
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.errors import UserError


@settings(max_examples=100)
@given(
  labels=label_lists, num_clients=st.integers(1, 8), each=st.integers(1, 7), seed=st.integers(0, 99)
)
def test_clients_have_exactly_k_classes_unless_impossible(labels, num_clients, each, seed):
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
  counts = class_counts("classes", labels, num_clients, seed, classes_per_client=each)
  np.testing.assert_array_equal((counts > 0).sum(1), each)
  assert ((counts > 0).any(0) == (np.bincount(labels) > 0)).all()


@pytest.mark.parametrize(("num_clients", "each"), [(10, 2), (10, 1), (5, 2), (10, 10), (20, 3)])
def test_balanced_classes_give_even_clients(num_clients, each):
  counts = class_counts("classes", BALANCED, num_clients, classes_per_client=each)
  np.testing.assert_array_equal((counts > 0).sum(1), each)
  assert np.ptp(counts.sum(1)) <= 1


def test_shared_classes_even_out_the_sizes():
  # 3 x 4 classes for 10 classes: two classes are shared and divided to even out the sizes.
  assert np.ptp(class_counts("classes", BALANCED, 3, classes_per_client=4).sum(1)) <= 2


def test_larger_classes_have_more_clients():
  labels = np.repeat([0, 1], [900, 100])
  counts = class_counts("classes", labels, 10, classes_per_client=1)
  np.testing.assert_array_equal((counts > 0).sum(0), [9, 1])
  np.testing.assert_array_equal(counts.sum(1), 100)


def test_the_client_of_a_rare_class_is_random():
  labels = np.repeat([0, 1], [900, 100])
  holders = {
    int(class_counts("classes", labels, 10, seed, classes_per_client=1)[:, 1].argmax())
    for seed in range(30)
  }
  assert len(holders) >= 6


def test_random_classes_are_those_of_niid_bench():
  further = np.zeros((12, 10), int)
  for seed in range(200):
    counts = class_counts("random_classes", BALANCED, 12, seed, classes_per_client=3)
    held = counts > 0
    np.testing.assert_array_equal(held.sum(1), 3)
    assert held[np.arange(12), np.arange(12) % 10].all()
    for own, one in zip(held.T, counts.T, strict=True):
      parts = np.array_split(np.zeros(100), own.sum())
      np.testing.assert_array_equal(one[own], [len(part) for part in parts])
    further += held
  further[np.arange(12), np.arange(12) % 10] = 44
  # 2 of the 9 other classes, each as likely as the other: 44 of 200, standard deviation 6.
  assert (np.abs(further - 44) < 30).all()


def test_one_random_class_is_the_clients_own():
  counts = class_counts("random_classes", BALANCED, 10, classes_per_client=1)
  np.testing.assert_array_equal(counts, 100 * np.eye(10, dtype=int))


def test_combinations_of_classes_depend_on_the_seed():
  combinations = {
    tuple(map(tuple, class_counts("classes", BALANCED, 10, seed, classes_per_client=2) > 0))
    for seed in range(5)
  }
  assert len(combinations) == 5


@pytest.mark.parametrize(
  ("ratio", "client_1", "client_2"),
  [
    (0.0, [0] * 5 + [100] * 5, [100] * 5 + [0] * 5),
    (0.25, [25] * 5 + [75] * 5, [75] * 5 + [25] * 5),
    (0.5, [50] * 10, [50] * 10),
    (1.0, [100] * 5 + [0] * 5, [0] * 5 + [100] * 5),
  ],
)
def test_two_clients_follow_equations_9_and_10_of_paper_000(ratio, client_1, client_2):
  counts = class_counts("ratio", BALANCED, 2, ratio=ratio)
  np.testing.assert_array_equal(counts, [client_1, client_2])


def test_further_clients_share_the_rest_evenly():
  labels = np.repeat(np.arange(6), 120)
  counts = class_counts("ratio", labels, 3, ratio=0.5)
  main, other = 60, 30
  np.testing.assert_array_equal(
    counts,
    [[other] * 2 + [main] * 2 + [other] * 2, [other] * 4 + [main] * 2, [main] * 2 + [other] * 4],
  )
  np.testing.assert_array_equal(class_counts("ratio", labels, 3, ratio=2 / 3), np.full((3, 6), 40))


@settings(max_examples=60)
@given(labels=label_lists, ratio=st.floats(0, 1))
def test_each_class_of_a_ratio_is_within_one_example_of_its_share(labels, ratio):
  classes = np.unique(labels)
  assume(len(classes) >= 2)
  try:
    counts = class_counts("ratio", labels, 2, ratio=ratio)[:, classes]
  except UserError:
    return
  first = np.arange(len(classes)) < -(-len(classes) // 2)
  exact = np.where(first, ratio, 1 - ratio) * np.bincount(labels)[classes]
  assert np.abs(counts[0] - exact).max() < 1 + 1e-9


def test_a_fully_skewed_partition_is_sorted_by_label():
  counts = class_counts("skew", BALANCED, 5, fraction=1.0)
  np.testing.assert_array_equal(counts, np.kron(np.eye(5, dtype=int), [[100, 100]]))


def test_a_partly_skewed_partition_has_the_fraction_and_its_part_of_the_rest():
  labels = np.repeat(np.arange(5), 1000)
  counts = class_counts("skew", labels, 5, fraction=0.6)
  main = np.diag(counts)
  # 600 by label, and a fifth of the 400 that are divided at random (standard deviation 8).
  assert (np.abs(main - 680) < 45).all()
  assert (np.abs(counts[~np.eye(5, dtype=bool)] - 80) < 45).all()


def test_dominant_clients_have_80_percent_one_class_and_20_the_next():
  expected = 80 * np.eye(10, dtype=int) + 20 * np.roll(np.eye(10, dtype=int), 1, axis=1)
  np.testing.assert_array_equal(class_counts("dominant", BALANCED, 10), expected)
  np.testing.assert_array_equal(
    class_counts("dominant", BALANCED, 20), np.concatenate([expected, expected]) // 2
  )


def test_dominant_with_fewer_clients_uses_blocks_of_classes():
  counts = class_counts("dominant", BALANCED, 5, dominant_share=0.7)
  blocks = 70 * np.eye(5, dtype=int) + 30 * np.roll(np.eye(5, dtype=int), 1, axis=1)
  np.testing.assert_array_equal(counts, np.kron(blocks, [[1, 1]]))


def test_dominant_clients_have_their_share_of_each_class_if_c_does_not_divide_k():
  counts = class_counts("dominant", BALANCED, 13)
  for k in range(13):
    assert set(np.flatnonzero(counts[k])) == {k % 10, (k + 1) % 10}
  for c in range(10):
    assert counts[np.arange(13) % 10 == c, c].sum() == 80


def test_dirichlet_clients_have_more_classes_with_larger_alpha():
  labels = np.repeat(np.arange(10), 500)
  shares = [
    (counts / counts.sum(1, keepdims=True)).max(1).mean()
    for counts in (class_counts("dirichlet", labels, 10, alpha=a) for a in (0.05, 1.0, 1000.0))
  ]
  assert shares[0] > 0.6 > shares[1] > 0.15 > shares[2]


def test_dirichlet_repeats_the_draw_until_all_clients_have_enough():
  made = partitions.make("dirichlet", BALANCED, 10, 0, alpha=0.5, min_size=30)
  assert partitions.sizes(made).min() >= 30


def dirichlet_of_niid_bench(class_sizes, num_clients, seed, alpha, min_size):
  """The numbers of examples [K, C] by NIID-Bench's rule, one number after the other."""
  rng, total = np.random.default_rng(seed), sum(class_sizes)
  held = [0] * num_clients
  while min(held) < min_size:
    held, columns = [0] * num_clients, []
    for size in class_sizes:
      drawn = rng.dirichlet(np.repeat(alpha, num_clients))
      shares = [p * (n < total / num_clients) for p, n in zip(drawn, held, strict=True)]
      ends = [round(size * sum(shares[: k + 1]) / sum(shares)) for k in range(num_clients)]
      columns.append([end - start for start, end in zip([0, *ends], ends, strict=False)])
      held = [a + b for a, b in zip(held, columns[-1], strict=True)]
  return np.transpose(columns)


@pytest.mark.parametrize("seed", range(4))
def test_capped_dirichlet_is_that_of_niid_bench(seed):
  options = {"alpha": 0.5, "min_size": 60}
  counts = class_counts("dirichlet", BALANCED, 10, seed, cap_sizes=True, **options)
  expected = dirichlet_of_niid_bench([100] * 10, 10, seed, **options)
  np.testing.assert_array_equal(counts, expected)
  assert (counts != class_counts("dirichlet", BALANCED, 10, seed, min_size=1)).any()


def test_a_client_with_its_share_gets_nothing_of_the_classes_that_follow():
  counts = class_counts("dirichlet", BALANCED, 10, 1, alpha=0.01, cap_sizes=True)
  before = counts.cumsum(1) - counts
  assert (counts[before >= 100] == 0).all()
  assert (counts[before < 100] > 0).any()


def test_labels_may_have_gaps():
  labels = np.repeat([2, 5, 9], 10)
  np.testing.assert_array_equal(
    class_counts("classes", labels, 3, classes_per_client=1).max(1), [10, 10, 10]
  )


def test_one_class_cannot_dominate():
  with pytest.raises(UserError, match="2 classes"):
    partitions.make("dominant", np.zeros(10, int), 2, 0)


@settings(max_examples=6)
@given(
  alpha=st.floats(1, 5), correlation=st.sampled_from([0, 0.3, 0.6, 0.9]), seed=st.integers(0, 99)
)
def test_neighbours_have_the_correlation_that_was_asked_for(alpha, correlation, seed):
  """Over 300 classes of 20 neighbourhoods; with many clients, shares are as good as independent."""
  labels = np.repeat(np.arange(300), 800)
  options = {"alpha": alpha, "correlation": correlation, "neighbours": 3}
  shares = class_counts("dirichlet", labels, 60, seed, **options) / 800
  measured = np.corrcoef(shares)
  near = np.kron(np.eye(20, dtype=bool), np.ones((3, 3), bool))
  assert np.abs(measured[near & ~np.eye(60, dtype=bool)].mean() - correlation) < 0.1
  assert np.abs(measured[~near].mean()) < 0.05
  # The variance of a share of Dirichlet(alpha).
  expected = (1 / 60) * (59 / 60) / (60 * alpha + 1)
  assert shares.var() == pytest.approx(expected, rel=0.25)


@settings(max_examples=40)
@given(label_lists, st.integers(2, 9), st.integers(2, 4), st.floats(0.001, 50), st.integers(0, 99))
def test_fully_correlated_neighbours_have_equal_classes(
  labels, num_clients, neighbours, alpha, seed
):
  options = {"alpha": alpha, "correlation": 1.0, "neighbours": neighbours}
  try:
    counts = class_counts("dirichlet", labels, num_clients, seed, **options)
  except UserError:
    return
  for first in range(0, num_clients, neighbours):
    assert np.ptp(counts[first : first + neighbours], axis=0).max() <= 1
