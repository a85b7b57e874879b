"""Random samples of examples, and the examples of the first classes."""

import numpy as np
import pytest

from fedjax_norm.data.examples import Examples, Source, first_classes, sample
from fedjax_norm.errors import UserError

ALL = Examples(np.arange(40).reshape(20, 2, 1, 1), np.arange(20) % 3, np.arange(20) // 4)


def test_a_sample_is_a_subset_of_a_larger_one_and_keeps_examples_intact():
  small, large = sample(ALL, 0.25, 3), sample(ALL, 0.6, 3)
  assert (len(small.labels), len(large.labels)) == (5, 12)
  for part in (small, large):
    ids = part.images[:, 0, 0, 0] // 2
    assert (np.diff(ids) > 0).all()
    for values, expected in zip(part[:3], ALL[:3], strict=True):
      np.testing.assert_array_equal(values, expected[ids])
    assert part.targets is None
  assert set(small.images.ravel()) < set(large.images.ravel())
  assert (sample(ALL, 0.5, 3).images != sample(ALL, 0.5, 4).images).any()
  np.testing.assert_array_equal(sample(ALL, 1.0, 3).images, ALL.images)
  assert len(sample(ALL, 1e-9, 0).labels) == 1


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_shares_out_of_range_are_refused(share):
  with pytest.raises(UserError, match="share"):
    sample(ALL, share, 0)


def test_only_the_first_classes_and_the_clients_that_have_them_are_kept():
  train, test = ALL._replace(labels=np.arange(20) // 4, clients=np.arange(20) // 2), ALL
  source = Source("some", train, test, tuple("abcde"), tuple(map(str, range(10))))
  kept = first_classes(source, 2)
  ids = [i for i in range(20) if train.labels[i] < 2]
  tested = [i for i in range(20) if test.labels[i] < 2]
  assert ids == list(range(8))
  assert kept.class_names == ("a", "b")
  assert kept.client_names == ("0", "1", "2", "3")
  assert kept.train.clients.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
  assert kept.test.clients.tolist() == [c if (c := i // 4) < 4 else -1 for i in tested]
  for part, whole, chosen in ((kept.train, train, ids), (kept.test, test, tested)):
    np.testing.assert_array_equal(part.images, whole.images[chosen])
    np.testing.assert_array_equal(part.labels, whole.labels[chosen])
    assert part.labels.max() == 1
  # Clients are numbered anew if those before them have none of the classes.
  late = source._replace(train=train._replace(clients=np.arange(20)[::-1] // 2))
  kept = first_classes(late, 2)
  assert kept.client_names == ("6", "7", "8", "9")
  assert kept.train.clients.tolist() == [3, 3, 2, 2, 1, 1, 0, 0]
  assert set(kept.test.clients) == {-1}


@pytest.mark.parametrize(
  ("changes", "count", "words"),
  [
    ({}, 3, "has 3 classes; give fewer"),
    ({"test_names": ("x", "y", "z")}, 2, "are not its training classes"),
    ({"train": ALL._replace(targets=np.zeros((20, 1)))}, 2, "is for classification"),
    ({"test": ALL._replace(labels=np.full(20, 2))}, 2, "no test example of its first 2 classes"),
  ],
)
def test_classes_that_cannot_be_left_out_are_refused(changes, count, words):
  source = Source("some", ALL, ALL, tuple("abc"))._replace(**changes)
  with pytest.raises(UserError, match=words):
    first_classes(source, count)
