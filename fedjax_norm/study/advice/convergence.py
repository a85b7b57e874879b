"""What contenders that still improve leave open: a verdict holds only at the budget of the runs."""

from collections.abc import Iterable

from fedjax_norm.study import ranking
from fedjax_norm.study.advice.field import Field
from fedjax_norm.study.advice.wording import amount, quoted
from fedjax_norm.study.contender import Contender

OVERTAKES = "may overtake with more rounds"
_MOST_NAMES = 2


def improving(field: Field) -> list[Contender]:
  """Returns the contenders that have not converged."""
  return [one for one in field.finished if ranking.still_improves(one, field.criterion)]


def overtaking(field: Field, winner: Contender, rivals: Iterable[Contender]) -> list[Contender]:
  """Returns those of the rivals that more rounds may put ahead of the winner, the best first.

  Such a rival still improves, and it gained more than its distance to the winner: the mean of the
  last third of its evaluations exceeds that of the third before by more than the mean lead of the
  winner. What the winner itself still gains does not count, because it may flatten first.
  """
  names = {one.name for one in rivals}
  return [
    one
    for one in improving(field)
    if one.name in names and ranking.gain(one, field.criterion) > field.lead(winner, one).mean
  ]


def overtaking_text(field: Field, winner: Contender, rival: Contender) -> str:
  """Returns the evidence that a rival may overtake the winner, as one sentence."""
  behind = field.lead(winner, rival).mean
  gained = amount(field.criterion, ranking.gain(rival, field.criterion))
  where = f"{amount(field.criterion, behind)} {'behind' if behind > 0 else 'ahead of'}"
  return (
    f"{quoted(rival)} gained {gained} in the last third of its evaluations and is {where} "
    f"{quoted(winner)}, so it {OVERTAKES}."
  )


def still_improving(field: Field) -> str:
  """Returns in a few words which contenders still improve; empty if none does."""
  rising = improving(field)
  if not rising:
    return ""
  if len(rising) > _MOST_NAMES:
    return f"{len(rising)} of {len(field.finished)} contenders still improve"
  names = " and ".join(map(quoted, rising))
  return f"{names} still improve{'s' * (len(rising) == 1)}"
