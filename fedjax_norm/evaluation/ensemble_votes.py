"""Testing an ensemble: the vote, and each member by itself (paper 003, sec. 6)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.transforms.preprocess import EvalTransform
from fedjax_norm.evaluation import classification
from fedjax_norm.evaluation.classification import HeldOut, Scores
from fedjax_norm.models.ensemble import LOGITS, Ensemble
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array, Variables


class Votes(NamedTuple):
  """Sums over the test set by class, so that adding merges them.

  Attributes:
    loss: [C] of the vote (see :class:`Scores`).
    top1: [C] of the vote.
    top5: [C] of the vote.
    examples: [C] how many.
    each: [M, C] examples that are the first guess of each member.
  """

  loss: Array
  top1: Array
  top5: Array
  examples: Array
  each: Array


def make_votes(model: Ensemble, num_classes: int, transform: EvalTransform) -> Callable[..., Votes]:
  """(variables, one test batch, a client's feature strength or None) -> its votes."""

  def votes(variables: Variables, examples: HeldOut, strength: Array | None = None) -> Votes:
    batch, ids = examples
    images = transform(batch.images, ids, strength)
    vote, kept = model.apply(variables, images, Mode(), mutable=[LOGITS])
    logits = kept[LOGITS]["each"][0]
    scores = [
      classification.scores_of(one, batch, num_classes)
      for one in (vote, *jnp.moveaxis(logits, 1, 0))
    ]
    return Votes(*scores[0], jnp.stack([score.top1 for score in scores[1:]]))

  return votes


def summarize(votes: Votes) -> dict[str, float]:
  """A row's test columns: the vote's, and ``member<i>_top1`` of each member.

  Args:
    votes: of a model, or of several [k, ...], whose mean it is then.
  """
  columns = classification.summarize(Scores(*votes[:4]))
  right = np.asarray(votes.each, np.float64)
  right = right.sum(-1).reshape(-1, right.shape[-2]).sum(0)
  shares = right / np.asarray(votes.examples, np.float64).sum()
  return columns | {f"member{index}_top1": float(share) for index, share in enumerate(shares)}
