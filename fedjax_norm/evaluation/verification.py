"""Verification: whether two images show one identity, told by how far apart their embeddings are.

The protocol is that of Labeled Faces in the Wild, view 2 (Huang et al. 2007): ten folds of pairs,
half of each showing one identity and half two, and no identity in two folds; each fold is judged by
the threshold that is best for the other nine.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.transforms.preprocess import EvalTransform
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.classification import HeldOut
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array, PyTree, Variables

Embed = Callable[..., Array]
"""(variables, a test batch, a client's feature strength or None) -> embeddings [B, D] float32."""


class Pairs(NamedTuple):
  """Pairs of test examples, P in all.

  Attributes:
    first: [P] int32, the id of one example.
    second: [P] int32, of the other.
    same: [P] bool, whether both are of one identity.
    fold: [P] int32, from 0.
  """

  first: np.ndarray
  second: np.ndarray
  same: np.ndarray
  fold: np.ndarray


def make_pairs(labels: np.ndarray, seed: int = 0, folds: int = 10, per_fold: int = 300) -> Pairs:
  """Draws the pairs of a test set.

  Each fold has n pairs of either kind, n being ``per_fold`` or the most that every fold has. As in
  LFW a pair of one identity is two of its images, the identity drawn uniformly, and a pair of two
  is an image of each; no pair comes twice. With fewer than two identities a fold the folds cannot
  have identities of their own: then pairs of all identities are dealt over them.

  Args:
    labels: [N] int, the identity of each test example.
    seed: of the draws.
    folds: how many, at least 2.
    per_fold: n at the most.

  Raises:
    UserError: too few identities or images for a pair of either kind in every fold.
  """
  rng = np.random.default_rng(seed)
  images = [np.flatnonzero(labels == label) for label in rng.permutation(np.unique(labels))]
  images.sort(key=lambda ids: len(ids) < 2)  # so that every fold has one with a pair of its own
  apart = len(images) >= 2 * folds and sum(len(ids) > 1 for ids in images) >= folds
  sections = [images[fold::folds] for fold in range(folds)] if apart else [images]
  share = folds // len(sections)
  count = min(per_fold * share, *(n for section in sections for n in _available(section)))
  count -= count % share
  if not count:
    raise UserError(
      f"verification needs {folds} pairs of test images that show one identity and {folds} that "
      f"show two; these {len(labels)} test images of {len(images)} identities do not have them."
    )
  parts = []
  for index, section in enumerate(sections):
    fold = np.full(count, index) if apart else np.arange(count) % folds
    for kind in (True, False):
      first, second = _draw(rng, section, count, kind).T
      parts.append((first, second, np.full(count, kind), fold))
  first, second, same, fold = map(np.concatenate, zip(*parts, strict=True))
  return Pairs(first.astype(np.int32), second.astype(np.int32), same, fold.astype(np.int32))


def _available(section: Sequence[np.ndarray]) -> tuple[int, int]:
  """The pairs of one identity, and of two, among the images of some identities."""
  sizes = np.array([len(ids) for ids in section])
  return int((sizes * (sizes - 1)).sum() // 2), int((sizes.sum() ** 2 - (sizes**2).sum()) // 2)


def _draw(
  rng: np.random.Generator, section: Sequence[np.ndarray], count: int, same: bool
) -> np.ndarray:
  """Distinct pairs [count, 2] of the images of some identities."""
  if same:
    section = [ids for ids in section if len(ids) > 1]
  pairs: set[tuple[int, int]] = set()
  while len(pairs) < count:
    one = int(rng.integers(len(section)))
    other = one if same else (one + int(rng.integers(1, len(section)))) % len(section)
    first, second = rng.choice(section[one]), rng.choice(section[other])
    if first != second:
      pairs.add((min(first, second), max(first, second)))
  return np.array(sorted(pairs))


def make_embed(model: nn.Module, transform: EvalTransform) -> Embed:
  """The embeddings of a batch of test images by a model with a method ``embed``."""

  def embed(variables: Variables, examples: HeldOut, strength: Array | None = None) -> Array:
    images = transform(examples.batch.images, examples.ids, strength)
    embeddings: Array = model.apply(variables, images, Mode(), method="embed")
    return embeddings.astype(jnp.float32)

  return embed


def cosine_distances(embeddings: Array, pairs: Pairs) -> Array:
  """1 - cos of the angle between the embeddings of each pair, from 0 to 2.

  Args:
    embeddings: [..., D], examples in the order of their ids; one of length 0 is 1 from all others.
    pairs: of them.

  Returns:
    [P] float32.
  """
  embeddings = embeddings.reshape(-1, embeddings.shape[-1])
  length = jnp.sqrt((embeddings**2).sum(-1, keepdims=True))
  unit = embeddings / jnp.maximum(length, jnp.finfo(jnp.float32).tiny)
  return 1 - (unit[pairs.first] * unit[pairs.second]).sum(-1)


def make_evaluate(
  embed: Embed, pairs: Pairs, mapping: ClientMapping
) -> Callable[[Variables, HeldOut], Array]:
  """(variables, stacked batches) -> the pairs' distances [P]; batches are mapped as nodes are."""

  @functools.partial(jax.jit, out_shardings=mapping.sharding)
  def evaluate(variables: Variables, batches: HeldOut) -> Array:
    def node(variables, batch):
      return (), embed(variables, batch)

    return cosine_distances(mapping.map_reduce(node, variables, batches)[1], pairs)

  return evaluate


def make_evaluate_clients(
  embed: Embed,
  pairs: Pairs,
  mapping: ClientMapping,
  client_variables: Callable[[PyTree, PyTree], Variables],
) -> Callable[[PyTree, PyTree, Array, HeldOut], Array]:
  """The pairs' distances by each client's model, on the test set as that client would see it.

  Returns:
    (server's state, clients' states [k, ...], their feature strengths [k], stacked batches) ->
    distances [k, P].
  """

  @functools.partial(jax.jit, out_shardings=mapping.sharding)
  def evaluate(server: PyTree, clients: PyTree, strengths: Array, batches: HeldOut) -> Array:
    def node(shared, item):
      (server, batches), (client, strength) = shared, item
      variables = client_variables(server, client)
      embeddings = jax.lax.map(lambda batch: embed(variables, batch, strength), batches)
      return (), cosine_distances(embeddings, pairs)

    return mapping.map_reduce(node, (server, batches), (clients, strengths))[1]

  return evaluate


class Verdict(NamedTuple):
  """What a set of distances is worth.

  Attributes:
    accuracies: [folds] the share of each fold's pairs told right.
    thresholds: [folds] the distance up to which a pair counts as one identity, by the other folds.
  """

  accuracies: np.ndarray
  thresholds: np.ndarray


def judge(distances: np.ndarray, pairs: Pairs) -> Verdict:
  """Judges each fold by the threshold under which most of the others' pairs are told right.

  Args:
    distances: [P].
    pairs: of two folds or more.
  """
  distances = np.asarray(distances, np.float64)
  verdicts = []
  for fold in np.unique(pairs.fold):
    tested = pairs.fold == fold
    threshold = best_threshold(distances[~tested], pairs.same[~tested])
    right = (distances[tested] <= threshold) == pairs.same[tested]
    verdicts.append((right.mean(), threshold))
  accuracies, thresholds = np.array(verdicts).T
  return Verdict(accuracies, thresholds)


def best_threshold(distances: np.ndarray, same: np.ndarray) -> float:
  """The threshold under which most pairs are told right, the least of several that are best.

  It lies halfway between the last distance that it takes for one identity and the next; one that
  takes none is a half below the least.

  Args:
    distances: [P] float64.
    same: [P] bool.
  """
  order = np.argsort(distances)
  values = np.append(distances.min() - 1, distances[order])  # a place before all pairs
  # Of the first k pairs, less what is wrong among them: right in all, but for a constant.
  gain = np.append(0, np.where(same[order], 1, -1).cumsum())
  last = np.append(values[1:] > values[:-1], True)  # equal distances are on one side
  k = int(np.flatnonzero(last)[gain[last].argmax()])
  return float(values[k : k + 2].mean())


def summarize(distances: np.ndarray, pairs: Pairs) -> dict[str, float]:
  """A row's test columns, as means over models for distances [k, P].

  Returns:
    ``loss``: the cosine embedding loss, the mean over pairs of the distance where they show one
    identity and of max(0, cos) where they show two; ``top1``: the share of pairs told right, the
    mean over folds; ``threshold``, the mean over folds; ``verification_error``: the standard error
    of that share over folds, s / sqrt(folds) with n - 1 in s.
  """
  models = np.atleast_2d(np.asarray(distances, np.float64))
  losses = np.where(pairs.same, models, np.maximum(1 - models, 0))
  verdicts = [judge(one, pairs) for one in models]
  accuracies = np.array([verdict.accuracies for verdict in verdicts])
  errors = accuracies.std(1, ddof=1) / np.sqrt(accuracies.shape[1])
  return {
    "loss": float(losses.mean()),
    "top1": float(accuracies.mean()),
    "threshold": float(np.mean([verdict.thresholds for verdict in verdicts])),
    "verification_error": float(errors.mean()),
  }
