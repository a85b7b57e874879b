"""Verification: pairs, distances and thresholds by hand, and a network that learns identities."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from helpers.settings import plain, program_of
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm import client_mapping, norm
from fedjax_norm.algorithms.ssgd import SSGD
from fedjax_norm.data.examples import Examples
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation import verification
from fedjax_norm.evaluation.batches import make_evaluate, make_evaluate_clients, stack_batches
from fedjax_norm.models import registry
from fedjax_norm.models.face import Face
from fedjax_norm.training.loop import train
from fedjax_norm.training.run import initial_variables
from fedjax_norm.training.task.task import make_task

# pairs


def check_pairs(labels, pairs):
  """Checks the properties of all pairs; returns the number per fold and kind."""
  first, second = labels[pairs.first], labels[pairs.second]
  np.testing.assert_array_equal(first == second, pairs.same)
  assert (pairs.first != pairs.second).all()
  unordered = {frozenset(p) for p in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)}
  assert len(unordered) == len(pairs.same)
  counts = {
    (f, s): ((pairs.fold == f) & (pairs.same == s)).sum() for f in range(10) for s in (0, 1)
  }
  assert len(set(counts.values())) == 1
  return counts[0, 0]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 7), min_size=20, max_size=40), st.integers(0, 100))
def test_folds_are_balanced_and_share_no_identity(sizes, seed):
  sizes = [*sizes, *[2] * 10]  # at least ten identities with a pair
  labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
  pairs = verification.make_pairs(labels, seed, per_fold=6)
  assert 1 <= check_pairs(labels, pairs) <= 6
  for label in np.unique(labels):
    in_pair = (labels[pairs.first] == label) | (labels[pairs.second] == label)
    assert len(np.unique(pairs.fold[in_pair])) <= 1
  again = verification.make_pairs(labels, seed, per_fold=6)
  assert all(map(np.array_equal, pairs, again))


def test_the_number_of_pairs_of_a_fold():
  labels = np.repeat(np.arange(40), 8)
  assert check_pairs(labels, verification.make_pairs(labels, per_fold=50)) == 50
  # Four identities of eight images have 4 * 28 pairs of the same identity.
  pairs = verification.make_pairs(labels)
  assert check_pairs(labels, pairs) == 4 * 28
  other = verification.make_pairs(labels, seed=1, per_fold=50)
  assert not np.array_equal(other.first, verification.make_pairs(labels, per_fold=50).first)


def test_few_identities_are_in_all_folds():
  labels = np.repeat([0, 1, 2], 10)
  pairs = verification.make_pairs(labels)
  assert check_pairs(labels, pairs) == 3 * 45 // 10
  assert len(np.unique(pairs.fold[labels[pairs.first] == 0])) == 10


@pytest.mark.parametrize("labels", [np.zeros(30), np.arange(30), np.repeat([0, 1], 3)])
def test_too_few_pairs_are_refused(labels):
  with pytest.raises(UserError, match="10 pairs of test images"):
    verification.make_pairs(labels)


# distances and thresholds


def accuracy(distances, same, threshold):
  """Returns the share of correctly classified pairs."""
  return np.mean([(d <= threshold) == s for d, s in zip(distances, same, strict=True)])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=20, max_size=40))
def test_each_fold_uses_the_best_threshold_of_the_others(pairs):
  """Tries every threshold; the distances have few values, so that many are equal."""
  distances = np.array([d / 8 for d, _ in pairs])
  same = np.array([s for _, s in pairs])
  fold = np.arange(len(pairs)) % 10
  case = verification.Pairs(np.zeros(len(pairs)), np.zeros(len(pairs)), same, fold)
  verdict = verification.judge(distances, case)
  for f in range(10):
    tested, others = fold == f, fold != f
    each = [-np.inf, *np.unique(distances[others])]  # the first one accepts no pair
    tried = {t: accuracy(distances[others], same[others], t) for t in each}
    assert accuracy(distances[others], same[others], verdict.thresholds[f]) == max(tried.values())
    first = min(t for t, share in tried.items() if share == max(tried.values()))
    assert first <= verdict.thresholds[f]
    assert not any(first < d <= verdict.thresholds[f] for d in distances[others])
    assert verdict.accuracies[f] == accuracy(distances[tested], same[tested], verdict.thresholds[f])
  columns = verification.summarize(distances, case)
  assert columns["top1"] == pytest.approx(verdict.accuracies.mean())
  error = np.sqrt(((verdict.accuracies - verdict.accuracies.mean()) ** 2).sum() / 9 / 10)
  assert columns["verification_error"] == pytest.approx(error)


def test_the_best_threshold_can_accept_no_pair():
  distances, same = np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, False, True, False])
  threshold = verification.best_threshold(distances, same)
  assert np.isfinite(threshold)
  assert accuracy(distances, same, threshold) == 0.75


def test_distances_and_loss_equal_torch():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(12, 5)).astype(np.float32)
  x[3] = 0
  labels = np.repeat(np.arange(3), 4)
  pairs = np.array(list(itertools.combinations(range(12), 2)))
  same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
  case = verification.Pairs(*pairs.T, same, np.arange(len(pairs)) % 10)
  distances = np.asarray(verification.cosine_distances(jnp.asarray(x.reshape(3, 4, 5)), case))
  a, b = (torch.tensor(x[side]) for side in pairs.T)
  np.testing.assert_allclose(distances, 1 - torch.cosine_similarity(a, b), atol=1e-6)
  expected = torch.nn.functional.cosine_embedding_loss(
    a, b, torch.tensor(np.where(same, 1.0, -1.0))
  )
  assert verification.summarize(distances, case)["loss"] == pytest.approx(float(expected), abs=1e-6)
  # Columns of several models are means.
  both = np.stack([distances, distances[::-1]])
  each = [verification.summarize(one, case) for one in both]
  mean = verification.summarize(both, case)
  assert mean == pytest.approx({k: (each[0][k] + each[1][k]) / 2 for k in each[0]})


class Scaled(nn.Module):
  """Embeds an image as its first row, each pixel times a parameter."""

  def embed(self, x, mode):
    return self(x, mode)

  @nn.compact
  def __call__(self, x, mode):
    return x[:, 0, :, 0] * self.param("scale", nn.initializers.ones, (x.shape[2],))


def test_distances_do_not_depend_on_batches():
  """Distances of one model and of client models equal those of the whole set."""
  rng = np.random.default_rng(3)
  labels = np.repeat(np.arange(5, dtype=np.int32), 5)
  images = rng.normal(size=(25, 2, 3, 1)).astype(np.float32)
  pairs = verification.make_pairs(labels, per_fold=2)
  embed = verification.make_embed(Scaled(), lambda images, ids, strength: images)
  mapping = client_mapping.create("auto", num_clients=2)
  batches = stack_batches(Examples(images, labels), 7, mapping.num_devices)
  assert batches.batch.mask.size > 25  # with padding
  batches = jax.tree.map(jnp.asarray, batches)
  scales = np.abs(rng.normal(size=(3, 3))).astype(np.float32) + 0.1
  expected = []
  for scale in scales:
    x = images[:, 0, :, 0] * scale
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected.append(1 - (unit[pairs.first] * unit[pairs.second]).sum(1))
  finish = functools.partial(verification.finish, pairs=pairs)
  one = make_evaluate(embed, mapping, finish)
  np.testing.assert_allclose(
    one({"params": {"scale": scales[0]}}, batches), expected[0], rtol=1e-4, atol=1e-6
  )
  evaluate_clients = make_evaluate_clients(
    embed, mapping, lambda server, state: {"params": {"scale": state}}, finish
  )
  result = evaluate_clients((), jnp.asarray(scales), np.zeros(3, np.float32), batches)
  np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


# learning


@pytest.fixture
def small_face(monkeypatch):
  """The model ``face`` with two convolutions, for images of 8 pixels."""
  build = functools.partial(Face, blocks=(0,), channels=(16,), embedding=32)
  entry = registry.MODELS["face"]._replace(build=build, min_size=8)
  monkeypatch.setattr(registry, "MODELS", types.MappingProxyType({"face": entry}))


def test_training_on_some_identities_helps_to_verify_others(small_face):
  """40 training and 40 test identities; random training labels do not help."""
  source = sources.load("identities:size=8,images=12,noise=0,deformation=0.9")
  labels = source.train.labels
  random_labels = np.random.default_rng(0).permutation(labels)
  division = partitions.make("iid", labels, 2, 0)

  def task(labels):
    train = source.train._replace(labels=labels)
    return make_task(
      source._replace(train=train), division, norm.create("none"), "face", verification=True
    )

  local = plain(batch_size=16, momentum=0.9)
  program, config = program_of(SSGD, task(labels), local, rounds=80, eval_every=80, lr=0.05)
  rows = {}
  for name, given_labels in (("true", labels), ("random", random_labels)):
    one = task(given_labels)
    rows[name] = train(program, config, one.data, initial_variables(one, 0)).rows[-1]
  assert rows["true"]["top1"] > 0.7
  assert rows["random"]["top1"] < 0.68
  assert rows["true"]["top1"] - rows["random"]["top1"] > 4 * rows["true"]["verification_error"]
  assert "top5" not in rows["true"]


def test_invalid_arguments_are_refused(small_face, tiny_source):
  source = sources.load("identities:identities=24,images=4")
  division = partitions.make("iid", source.train.labels, 2, 0)
  with pytest.raises(UserError, match="choose the task verification"):
    make_task(source, division, norm.create("bn"), "face")
  task = make_task(source, division, norm.create("bn"), "face", verification=True)
  with pytest.raises(UserError, match="drop --evaluate_clients"):
    program_of(SSGD, task, rounds=1, eval_every=1, evaluate_clients=2)


def test_a_model_without_an_embedding_is_refused(tiny_source):
  division = partitions.make("iid", tiny_source.train.labels, 2, 0)
  with pytest.raises(UserError, match=r"'tiny' has no embedding .*; choose one of face"):
    make_task(tiny_source, division, norm.create("bn"), "tiny", verification=True)
