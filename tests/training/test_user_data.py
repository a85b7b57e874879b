"""Arrays as a data source, and user-defined partitions."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.user_parts import CLIENTS

import fedjax_norm as fn

BN = fn.make_norm("bn")


def test_arrays_are_a_source(tiny_source):
  train, test = tiny_source.train, tiny_source.test
  arrays = (
    train.images[..., 0].tolist(),
    train.labels.tolist(),
    jnp.array(test.images),
    test.labels,
  )
  task = fn.make_task(arrays, CLIENTS, BN)
  for actual, expected in zip(task.source[1:3], (train, test), strict=True):
    np.testing.assert_array_equal(actual.images, expected.images)
    np.testing.assert_array_equal(actual.labels, expected.labels)
  assert task.num_classes == 4


def alter(source, split="train", **fields):
  return source._replace(**{split: getattr(source, split)._replace(**fields)})


@pytest.mark.parametrize(
  ("make", "words"),
  [
    (lambda s: "digits", "the source must not be a str; pass the result of load_source, or four"),
    (lambda s: s.train[:2], "the source must not be a tuple; pass"),
    (lambda s: (s.train.images, s.train.labels + 0.5, *s.test[:2]), "y_train is float"),
    (lambda s: (s.train.images[:9], *s.train[1:2], *s.test[:2]), "y_train has shape"),
    (lambda s: ([[1], [1, 2]], *s.train[1:2], *s.test[:2]), "parts of different shapes"),
    (lambda s: alter(s, labels=s.train.labels + 1), "train labels .* must be integers from 0 to 3"),
    (lambda s: alter(s, labels=s.train.labels[1:]), "one label per image"),
    (
      lambda s: alter(s, "test", images=s.test.images[:, 1:]),
      r"test images .* shape \(21, 5, 6, 1\)",
    ),
    (lambda s: alter(s, "test", images=s.test.images.astype(int)), "must be uint8 or floating"),
  ],
)
def test_invalid_sources_are_refused(tiny_source, make, words):
  with pytest.raises(fn.UserError, match=words):
    fn.make_task(make(tiny_source), CLIENTS, BN)


def client_examples(task):
  data = task.data
  return [data.order[o : o + n].tolist() for o, n in zip(data.offsets, data.sizes, strict=True)]


def test_a_partition_is_client_ids_or_lists_of_example_ids(tiny_source):
  ids = [np.arange(k, 60, 3).tolist() for k in range(3)]
  for given in (CLIENTS, CLIENTS.tolist(), ids, [*map(np.array, ids)], np.array(ids)):
    assert client_examples(fn.make_task(tiny_source, given, BN)) == ids
  reversed_ = [ids[0][::-1], ids[2] + ids[1]]
  assert client_examples(fn.make_task(tiny_source, reversed_, BN)) == reversed_


@pytest.mark.parametrize(
  ("given", "words"),
  [
    (10, "the partition is an unsuitable int"),
    ("iid", "the partition is an unsuitable str"),
    (CLIENTS / 3, r"integers from 0 \(numpy.unique"),
    ([], "the partition is an unsuitable list"),
    ({0: [1, 2]}, "the partition is an unsuitable dict"),
    (CLIENTS[1:], "has 59 examples and the source has 60"),
    (CLIENTS - 1, "names client -1"),
    (CLIENTS * 100, "names client 100"),
    (CLIENTS * 2, "leaves client 1 without examples"),
    ([range(30), range(30, 61)], "has 61 examples"),
    ([range(30), range(31, 61)], "names example 60"),
    ([range(30), range(29, 59)], "gives example 29 twice"),
    ([range(60), []], "leaves client 1 without examples"),
    (fn.make_partition("iid", CLIENTS[1:], 3, 0), "the partition divides 59 examples"),
  ],
)
def test_invalid_partitions_are_refused(tiny_source, given, words):
  with pytest.raises(fn.UserError, match=words):
    fn.make_task(tiny_source, given, BN)
