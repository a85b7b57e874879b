"""What a study with planted outcomes concludes."""

from pathlib import Path

from helpers.contenders import tuning

from fedjax_norm.study.advice.answers import Answer
from fedjax_norm.study.advice.recommendation import Conclusion, recommend
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion

TOP1 = Criterion(baseline="fedavg")
RATES = tuning({0.01: 0.5, 0.03: 0.6, 0.1: 0.7})
EDGE = tuning({0.01: 0.5, 0.03: 0.6, 0.1: 0.7}, "highest")
GOOD, BAD = [0.91, 0.92, 0.915], [0.70, 0.72, 0.71]


def conclude(
  *members: Contender, criterion: Criterion = TOP1, study: Path | None = Path("runs/my study")
) -> Conclusion:
  """Returns what the contenders of one setting show."""
  [conclusion] = recommend(members, criterion, study).conclusions
  return conclusion


def answer(conclusion: Conclusion, question: str) -> Answer:
  """Returns the answer to a question."""
  return next(one for one in conclusion.answers if one.question == question)


def words(*sentences: str) -> str:
  """Returns sentences as one text."""
  return " ".join(sentences)
