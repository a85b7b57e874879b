"""The answer of a study in words: which norm, which algorithm, how much communication."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion


class Answer(NamedTuple):
  """The answer to one question in one setting.

  Attributes:
    question: the question, such as ``Which norm?``.
    verdict: whether the runs decide it.
    choice: the recommended values; several if they are tied.
    sentences: the verdict in words, with its evidence.
  """

  question: str
  verdict: Literal["decided", "undecided"]
  choice: tuple[str, ...]
  sentences: tuple[str, ...]


class Conclusion(NamedTuple):
  """What the contenders of one setting show.

  Attributes:
    setting: label of the setting.
    best: name of the best contender; None if none has results.
    summary: the result in one sentence.
    answers: the answers to the questions that the contenders pose; a study with one norm does not
      ask for the norm.
    remarks: further facts about the best contender, as sentences.
    limits: what the runs cannot tell, as sentences.
    next_steps: what to run next, as sentences.
  """

  setting: str
  best: str | None
  summary: str
  answers: tuple[Answer, ...]
  remarks: tuple[str, ...]
  limits: tuple[str, ...]
  next_steps: tuple[str, ...]


class Recommendation(NamedTuple):
  """The conclusions of all settings, in their order, and how contenders were ranked."""

  criterion: Criterion
  conclusions: tuple[Conclusion, ...]


def recommend(
  contenders: Sequence[Contender], criterion: Criterion, of_study: bool = True
) -> Recommendation:
  """Returns the answer that follows from the results.

  Args:
    contenders: the contenders of all settings, in any order.
    criterion: by what they are ranked.
    of_study: whether they are those of a study, so that the next steps name its options.
  """
  raise NotImplementedError


def as_text(recommendation: Recommendation) -> str:
  """Returns the recommendation as plain text for the terminal."""
  raise NotImplementedError
