"""The ranked table of contenders for the terminal."""

from collections.abc import Sequence

from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.recommendation import Recommendation


def render(contenders: Sequence[Contender], criterion: Criterion) -> str:
  """Returns a ranked table for each setting."""
  raise NotImplementedError


def render_answer(contenders: Sequence[Contender], recommendation: Recommendation) -> str:
  """Returns the tables and the recommendation in words."""
  raise NotImplementedError
