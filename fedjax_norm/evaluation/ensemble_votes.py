"""Tests of an ensemble: of its vote and of each member model (paper 003, sec. 6)."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.transforms.preprocess import EvalTransform
from fedjax_norm.evaluation import classification
from fedjax_norm.evaluation.batches import BatchTest, HeldOut
from fedjax_norm.evaluation.classification import Scores
from fedjax_norm.models.ensemble import LOGITS, Ensemble
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array, Variables


class Votes(NamedTuple):
  """Sums over test examples by class; the ``Votes`` of several batches can be added.

  Attributes:
    loss: [C] sum of the losses of the vote (see :class:`Scores`).
    top1: [C] number of examples for which the vote has the correct class first.
    top5: [C] number of examples for which the vote has the correct class among the first five.
    examples: [C] number of examples.
    each: [M, C] ``top1`` of each of the M member models.
  """

  loss: Array
  top1: Array
  top5: Array
  examples: Array
  each: Array


def make_votes(model: Ensemble, num_classes: int, transform: EvalTransform) -> BatchTest:
  """Returns the function of ``batches.make_batch_test`` whose sums are ``Votes``."""

  def votes(
    variables: Variables, examples: HeldOut, strength: Array | None = None
  ) -> tuple[Votes, tuple]:
    batch, ids = examples
    images = transform(batch.images, ids, strength)
    vote, collections = model.apply(variables, images, Mode(), mutable=[LOGITS])
    logits = collections[LOGITS]["each"][0]
    scores = [
      classification.scores_of(one, batch, num_classes)
      for one in (vote, *jnp.moveaxis(logits, 1, 0))
    ]
    return Votes(*scores[0], jnp.stack([score.top1 for score in scores[1:]])), ()

  return votes


def summarize(votes: Votes) -> dict[str, float]:
  """Returns the vote's loss, top-1 and top-5, and ``member<i>_top1`` of each member model.

  These test columns are means over the k ensembles if the votes have the shape [k, ...].
  """
  columns = classification.means(Scores(*votes[:4]))
  correct = np.asarray(votes.each, np.float64)
  correct = correct.sum(-1).reshape(-1, correct.shape[-2]).sum(0)
  shares = correct / np.asarray(votes.examples, np.float64).sum()
  return columns | {f"member{index}_top1": float(share) for index, share in enumerate(shares)}
