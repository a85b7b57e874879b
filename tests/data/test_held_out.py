"""Held-out examples are disjoint from those to train on, complete, stratified and drawn by seed."""

import numpy as np
import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from fedjax_norm.data.examples import Examples
from fedjax_norm.data.held_out import (
  HeldOutConfig,
  draw_examples,
  hold_out,
  move_tests,
  natural_clients,
)
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.errors import UserError

NAMES = ["Bern", "Oslo", "Porto", "Rome"]


def world(natural, labels):
  """Examples of natural clients; the pixel of an example is its id."""
  images = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
  train = Examples(images, np.asarray(labels, np.int32), np.asarray(natural, np.int32))
  return train, partitions.make("natural", train.labels, 0, 0, clients=train.clients)


def ids(examples):
  return examples.images.ravel().astype(int)


@given(
  cells=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=8, max_size=120),
  share=st.floats(0.05, 0.9),
  unseen=st.integers(0, 2),
  seed=st.integers(0, 3),
)
def test_every_example_is_in_one_part_and_keeps_its_client(cells, share, unseen, seed):
  natural, labels = np.array(cells).T
  train, partition = world(10 * natural, labels)
  clients = np.unique(natural)
  assume(len(clients) > unseen)
  config = HeldOutConfig(validation_share=share, unseen_clients=unseen)
  try:
    kept, division, held_out = hold_out(train, partition, config, seed)
  except UserError:  # nothing to validate on
    reject()
  parts = [kept, held_out.validation, *([held_out.unseen] if unseen else [])]
  assert sorted(np.concatenate([ids(part) for part in parts])) == list(range(len(labels)))
  assert sorted(division.order) == list(range(len(kept.labels)))
  # The clients that train come first, in their order; the names follow them.
  trained = len(division.offsets) - 1
  names = held_out.natural_ids
  assert trained == len(clients) - unseen
  assert sorted(names) == sorted(10 * clients)
  assert list(names[:trained]) == sorted(names[:trained])
  for k in range(trained):
    own = partitions.client(division, k)
    assert len(own)
    assert (kept.clients[own] == names[k]).all()
  for part in parts[1:]:
    assert (10 * natural[ids(part)] == names[part.clients]).all()
    assert (labels[ids(part)] == part.labels).all()


@given(
  sizes=st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=2, max_size=6),
  share=st.floats(0.1, 0.6),
  seed=st.integers(0, 2),
)
def test_each_class_of_each_client_has_its_share(sizes, share, seed):
  table = np.array(sizes)
  table[:, 0] += 3
  owners, labels = (np.repeat(part.ravel(), table.ravel()) for part in np.indices(table.shape))
  try:
    drawn = draw_examples(owners, labels, share, seed)
  except UserError:
    assert share * table.sum(0).max() <= 0.5
    return
  held = np.zeros_like(table)
  np.add.at(held, (owners[drawn], labels[drawn]), 1)
  assert (abs(held - share * table) < 1).all()
  assert (abs(held.sum(0) - share * table.sum(0)) <= 0.5 + 1e-9).all()
  assert (abs(held.sum(1) - share * table.sum(1)) < 2).all()
  again = draw_examples(owners, labels, share, seed)
  np.testing.assert_array_equal(drawn, again)


def test_the_draw_depends_on_the_seed_only():
  train, partition = world(np.arange(200) % 4, np.arange(200) // 4 % 5)

  def drawn(seed, share=0.2, unseen=1):
    held_out = hold_out(train, partition, HeldOutConfig(share, unseen), seed)[2]
    return ids(held_out.validation).tolist(), np.unique(train.clients[ids(held_out.unseen)])

  assert drawn(0)[0] == drawn(0)[0] != drawn(1)[0]
  assert len({int(drawn(seed)[1][0]) for seed in range(20)}) == 4
  assert len(drawn(0)[0]) == 30  # 0.2 of three clients with 50 examples
  assert drawn(0)[1] == drawn(0, share=0.5)[1]


def test_all_seeds_hold_out_equally_many_examples():
  """Also where 0.15 of a class of 50 or 90 examples is a half."""
  labels = np.repeat(np.arange(4), [50, 90, 31, 17])
  owners = [np.random.default_rng(seed).integers(0, 10, len(labels)) for seed in range(20)]
  counts = {len(draw_examples(clients, labels, 0.15, k)) for k, clients in enumerate(owners)}
  assert counts == {7 + 13 + 5 + 3}


def test_statistics_of_images_do_not_depend_on_the_validation_examples():
  train, partition = world(np.arange(40) % 4, np.zeros(40))
  with_share = hold_out(train, partition, HeldOutConfig(0.2), 0)[2]
  assert with_share.images is train.images
  held_out = hold_out(train, partition, HeldOutConfig(0.2, 1), 0)[2]
  both = [held_out.images.ravel().astype(int), ids(held_out.unseen)]
  assert sorted(np.concatenate(both)) == list(range(40))


@pytest.mark.parametrize(
  ("share", "unseen", "message"),
  [
    (0.01, 0, "--validation_share=0.01 of 40 examples at 4 clients holds no example out"),
    (None, 4, "--unseen_clients=4 leaves none of the 4 clients to train; give at most 3"),
    (None, "Rom,Bern", "the data has no client 'Rom'; its clients are Bern, Oslo, Porto, Rome"),
    (None, "Rome,Oslo,Bern,Porto", "names all 4 clients, so that none is left to train"),
  ],
)
def test_impossible_options_are_refused(share, unseen, message):
  train, partition = world(np.arange(40) % 4, np.zeros(40))
  with pytest.raises(UserError, match=message):
    hold_out(train, partition, HeldOutConfig(share, unseen), 0, NAMES)


def test_names_need_the_clients_of_the_data():
  train, partition = world(np.arange(40) % 4, np.zeros(40))
  mixed = partitions.make("iid", train.labels, 4, 0)
  for division, names in ((partition, None), (mixed, NAMES)):
    with pytest.raises(UserError, match="names its clients, and --partition=natural"):
      hold_out(train, division, HeldOutConfig(unseen_clients="Oslo"), 0, names)
  with pytest.raises(UserError, match="names no client"):
    HeldOutConfig(unseen_clients=" ,")
  assert HeldOutConfig(unseen_clients="3,").unseen_names == ("3",)


def test_named_clients_are_held_out_with_every_seed_and_take_their_test_examples():
  train, partition = world([0, 1, 2, 3, 1, 0], [0, 0, 1, 1, 1, 0])
  owners = np.array([3, 1, -1, 0, 1, 2], np.int32)
  test = Examples(np.arange(10, 16.0).reshape(-1, 1, 1, 1), np.zeros(6, np.int32), owners)
  for seed in range(3):
    config = HeldOutConfig(unseen_clients="Rome, Oslo")
    kept, division, held_out = hold_out(train, partition, config, seed, NAMES)
    left, held_out = move_tests(test, held_out)
    assert ids(kept).tolist() == [0, 2, 5]
    assert len(division.offsets) - 1 == 2
    assert held_out.natural_ids.tolist() == [0, 2, 1, 3]
    assert ids(left).tolist() == [12, 13, 15]
    assert ids(held_out.unseen).tolist() == [1, 3, 4, 10, 11, 14]
    assert held_out.unseen.clients.tolist() == [2, 3, 2, 3, 2, 2]
  nameless = test._replace(clients=None)
  assert move_tests(nameless, held_out) == (nameless, held_out)
  only_theirs = test._replace(clients=np.full(6, 1))
  with pytest.raises(UserError, match="takes all test images"):
    move_tests(only_theirs, held_out)


def test_clients_with_a_single_example_keep_it():
  with pytest.raises(UserError, match="drop it, because clients have a single example"):
    draw_examples(np.arange(6), np.zeros(6, int), 0.9, 0)
  drawn = draw_examples(np.array([0, 1, 1, 1, 2]), np.zeros(5, int), 0.9, 0)
  assert len(drawn) == 2
  assert set(drawn) < {1, 2, 3}


def test_clients_of_another_partition_have_no_names():
  owners = np.array([3, 3, 5, 5, 5, 8])
  natural = partitions.make("natural", np.zeros(6, int), 0, 0, clients=owners)
  assert natural_clients(natural, owners).tolist() == [3, 5, 8]
  assert natural_clients(partitions.make("iid", np.zeros(6, int), 3, 0), owners) is None
  assert natural_clients(natural, None) is None
