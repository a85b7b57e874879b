"""The contenders of one setting in their order, and the differences between them."""

from collections.abc import Sequence
from typing import NamedTuple

from fedjax_norm.study import ranking
from fedjax_norm.study.advice import wording
from fedjax_norm.study.advice.wording import quoted
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.statistics import Difference, paired_difference


class Field(NamedTuple):
  """The contenders of one setting.

  Attributes:
    criterion: by what they are ranked.
    finished: those with a score, the best first.
    others: those without.
  """

  criterion: Criterion
  finished: list[Contender]
  others: list[Contender]

  @property
  def members(self) -> list[Contender]:
    """All contenders."""
    return [*self.finished, *self.others]

  @property
  def margin(self) -> float:
    """The difference to the best contender that counts as small."""
    return self.criterion.margin(self.mean(self.finished[0]))

  @property
  def margin_text(self) -> str:
    """That difference in words, such as ``1 point``."""
    return wording.margin(self.criterion, self.mean(self.finished[0]))

  def lead(self, first: Contender, second: Contender) -> Difference:
    """Returns by how much ``first`` is better than ``second``, over their common seeds."""
    one, two = (
      {seed: self.criterion.sign * value for seed, value in scores.items()}
      for scores in (ranking.scores(first, self.criterion), ranking.scores(second, self.criterion))
    )
    return paired_difference(one, two)

  def lead_text(self, first: Contender, second: Contender, note: str = "") -> str:
    """Returns that difference in words; ``note`` follows the name of ``second``."""
    names = quoted(first), quoted(second) + note
    return wording.lead(self.criterion, *names, self.lead(first, second))

  def mean(self, contender: Contender) -> float:
    """Returns a contender's score."""
    return ranking.score(contender, self.criterion).mean


def make_field(contenders: Sequence[Contender], criterion: Criterion) -> Field:
  """Returns the contenders of one setting in order."""
  order = ranking.ranked(contenders, criterion)
  finished = [one for one in order if ranking.has_score(one, criterion)]
  return Field(criterion, finished, [one for one in order if one not in finished])
