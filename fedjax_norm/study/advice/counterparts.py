"""Whether norms, or algorithms, were compared with everything else equal."""

from collections.abc import Callable
from typing import NamedTuple

from fedjax_norm.study.advice import factors
from fedjax_norm.study.advice.field import Field
from fedjax_norm.study.contender import Contender


class Question(NamedTuple):
  """What is asked of the contenders.

  Attributes:
    kind: ``norm`` or ``algorithm``.
    label_of: function that returns a contender's norm, or its algorithm.
  """

  kind: str
  label_of: Callable[[Contender], str]


QUESTIONS = Question("norm", factors.norm), Question("algorithm", factors.algorithm)


def without_counterpart(field: Field, question: Question, label: str) -> list[Contender]:
  """Returns the contenders with the best one's norm whose counterparts with another norm are lost.

  The counterpart of a contender has the other norm, and the same algorithm, local steps and further
  options; learning rates may differ. An algorithm that fixes its local steps needs no equal ones.
  It is lost if it was not run, or if it has no result and will not get one. The same holds for
  algorithms.

  Args:
    field: the contenders.
    question: whether norms or algorithms are compared.
    label: the other norm, or the other algorithm.
  """
  own = question.label_of(field.finished[0])
  others = [one for one in field.members if question.label_of(one) == label]
  others = [one for one in others if one.state in ("done", "pending")]
  mine = [one for one in field.finished if question.label_of(one) == own]
  return [one for one in mine if not any(_alike(one, two, question) for two in others)]


def unmeasured(field: Field, question: Question, label: str) -> str:
  """Returns why a norm was not compared with the best one with everything else equal.

  It was if the counterpart of the best contender has a result. Divergence and options that
  contradict each other are results; a crash is none.

  Returns:
    The reason, as the end of a sentence; empty if it was.
  """
  best = field.finished[0]
  twins = [
    one for one in field.members if question.label_of(one) == label and _alike(best, one, question)
  ]
  if not twins:
    return f"no contender with {label} equals the best one in everything else"
  if all(one.state == "failed" for one in twins):
    return f"the contender with {label} that equals the best one in everything else failed"
  return ""


def _alike(one: Contender, two: Contender, question: Question) -> bool:
  """Returns whether ``two`` equals ``one`` in all but what is asked."""
  same = (q.label_of(one) == q.label_of(two) for q in QUESTIONS if q.kind != question.kind)
  wanted = factors.local_work(one)
  steps = not factors.chooses_work(two) or wanted in ("", factors.local_work(two))
  return steps and all(same) and factors.rest(one) == factors.rest(two)
