"""Tests of verification: whether two images show the same identity, by their embeddings' distance.

The protocol is that of Labeled Faces in the Wild, view 2 (Huang et al. 2007): ten folds of pairs;
half of the pairs of a fold show the same identity, and no identity is in two folds. Each fold is
classified by the distance threshold that is best for the other nine folds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm.data.transforms.preprocess import EvalTransform
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.batches import BatchTest, HeldOut
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array, Batch, Variables


class Pairs(NamedTuple):
  """P pairs of test examples.

  Attributes:
    first: [P] int32, id of the first example.
    second: [P] int32, id of the second example.
    same: [P] bool, whether both show the same identity.
    fold: [P] int32, index of the fold from 0.
  """

  first: np.ndarray
  second: np.ndarray
  same: np.ndarray
  fold: np.ndarray


def make_pairs(labels: np.ndarray, seed: int = 0, folds: int = 10, per_fold: int = 300) -> Pairs:
  """Draws the pairs of test images that verification classifies.

  Each fold has n pairs of the same identity and n pairs of different identities; n is ``per_fold``,
  or less if a fold has fewer pairs. As in LFW, a pair of the same identity is two images of a
  uniformly drawn identity. No pair occurs twice. With fewer than two identities per fold, pairs of
  all identities are divided over the folds. ``labels`` [N] are the identities of the test examples.

  Raises:
    UserError: too few identities or images for both kinds of pairs in every fold.
  """
  rng = np.random.default_rng(seed)
  images = [np.flatnonzero(labels == label) for label in rng.permutation(np.unique(labels))]
  images.sort(key=lambda ids: len(ids) < 2)  # every fold gets an identity with two images
  disjoint = len(images) >= 2 * folds and sum(len(ids) > 1 for ids in images) >= folds
  sections = [images[fold::folds] for fold in range(folds)] if disjoint else [images]
  share = folds // len(sections)
  count = min(per_fold * share, *(n for section in sections for n in _available(section)))
  count -= count % share
  if not count:
    raise UserError(
      f"verification needs {folds} pairs of test images that show one identity and {folds} that "
      f"show two; choose a test set with more than the {len(labels)} images of {len(images)} "
      "identities here."
    )
  parts = []
  for index, section in enumerate(sections):
    fold = np.full(count, index) if disjoint else np.arange(count) % folds
    for kind in (True, False):
      first, second = _draw(rng, section, count, kind).T
      parts.append((first, second, np.full(count, kind), fold))
  first, second, same, fold = map(np.concatenate, zip(*parts, strict=True))
  return Pairs(first.astype(np.int32), second.astype(np.int32), same, fold.astype(np.int32))


def _available(section: Sequence[np.ndarray]) -> tuple[int, int]:
  """Returns how many pairs of the same identity and of different identities can be drawn."""
  sizes = np.array([len(ids) for ids in section])
  return int((sizes * (sizes - 1)).sum() // 2), int((sizes.sum() ** 2 - (sizes**2).sum()) // 2)


def _draw(
  rng: np.random.Generator, section: Sequence[np.ndarray], count: int, same: bool
) -> np.ndarray:
  """Draws distinct pairs [count, 2] of images, of the same or of different identities."""
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


def make_embed(model: nn.Module, transform: EvalTransform) -> BatchTest:
  """Returns the test of a model with a method ``embed``, which sums nothing.

  Its values of each example are the embeddings [B, D].
  """

  def embed(
    variables: Variables, examples: HeldOut, strength: Array | None = None
  ) -> tuple[tuple, Array]:
    images = transform(examples.batch.images, examples.ids, strength)
    embeddings: Array = model.apply(variables, images, Mode(), method="embed")
    return (), embeddings.astype(jnp.float32)

  return embed


def finish(sums: tuple, embeddings: Array, batch: Batch, pairs: Pairs) -> Array:
  """Returns the distances [P] of the pairs (see ``batches.Finish``)."""
  del sums, batch
  return cosine_distances(embeddings, pairs)


def cosine_distances(embeddings: Array, pairs: Pairs) -> Array:
  """Returns the distances [P] float32 of pairs: 1 - cos of the embeddings' angle, from 0 to 2.

  ``embeddings`` [..., D] are in the order of the ids; a zero embedding has distance 1 to all.
  """
  embeddings = embeddings.reshape(-1, embeddings.shape[-1])
  length = jnp.sqrt((embeddings**2).sum(-1, keepdims=True))
  unit = embeddings / jnp.maximum(length, jnp.finfo(jnp.float32).tiny)
  return 1 - (unit[pairs.first] * unit[pairs.second]).sum(-1)


class Verdict(NamedTuple):
  """The accuracy of verification on each fold, and the distance threshold used.

  Attributes:
    accuracies: [folds] share of correctly classified pairs of each fold.
    thresholds: [folds] distance up to which a pair counts as the same identity, chosen on the other
      folds.
  """

  accuracies: np.ndarray
  thresholds: np.ndarray


def judge(distances: np.ndarray, pairs: Pairs) -> Verdict:
  """Classifies each fold's pairs by the distance threshold that is best for the other folds."""
  distances = np.asarray(distances, np.float64)
  verdicts = []
  for fold in np.unique(pairs.fold):
    tested = pairs.fold == fold
    threshold = best_threshold(distances[~tested], pairs.same[~tested])
    correct = (distances[tested] <= threshold) == pairs.same[tested]
    verdicts.append((correct.mean(), threshold))
  accuracies, thresholds = np.array(verdicts).T
  return Verdict(accuracies, thresholds)


def best_threshold(distances: np.ndarray, same: np.ndarray) -> float:
  """Returns the distance threshold with the most correct pairs; the smallest of equally good ones.

  The threshold is halfway between the greatest distance that counts as the same identity and the
  next greater distance; if no distance counts, it is 0.5 below the smallest.
  """
  order = np.argsort(distances)
  values = np.append(distances.min() - 1, distances[order])  # the first threshold accepts no pair
  # Number of correct pairs if the first k pairs are accepted, up to a constant.
  gain = np.append(0, np.where(same[order], 1, -1).cumsum())
  last = np.append(values[1:] > values[:-1], True)  # equal distances are accepted together
  k = int(np.flatnonzero(last)[gain[last].argmax()])
  return float(values[k : k + 2].mean())


def summarize(distances: np.ndarray, pairs: Pairs) -> dict[str, float]:
  """Returns the test columns, as means over k models for distances [k, P].

  Returns:
    ``loss``: cosine embedding loss, the mean over pairs of the distance (same identity) or of
    max(0, cos) (different identities); ``top1``: share of correctly classified pairs, mean over
    folds; ``threshold``: mean distance threshold of the folds; ``verification_error``: standard
    error of ``top1``, the sample standard deviation over folds / sqrt(number of folds).
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
