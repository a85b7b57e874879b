"""Which norm, or which algorithm, the contenders of one setting show to be best."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from fedjax_norm.study.advice import convergence
from fedjax_norm.study.advice.counterparts import Question, unmeasured
from fedjax_norm.study.advice.field import Field
from fedjax_norm.study.advice.wording import quoted
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.statistics import FEW_SEEDS, Difference, seeds_needed

NO_EVIDENCE = "that decides nothing"
TOO_FEW = "too few seeds"
AT_EDGE = "a rate at the edge of its search"
MISSING = "results are missing"


class Answer(NamedTuple):
  """The answer to one question in one setting.

  Attributes:
    question: the question, such as ``Which norm?``.
    verdict: whether the runs decide it.
    choice: the recommended values; several if the runs do not decide between them.
    sentences: the evidence.
    reasons: why it is undecided, each in a few words, such as ``equally good within 1 point``.
    tied: the best contender, and those that the runs cannot tell from it; empty if decided.
    improving: which contenders still improve, in a few words, so that the verdict holds only at the
      budget of the runs; empty if none does.
  """

  question: str
  verdict: Literal["decided", "undecided"]
  choice: tuple[str, ...]
  sentences: tuple[str, ...]
  reasons: tuple[str, ...] = ()
  tied: tuple[Contender, ...] = ()
  improving: str = ""


class Doubt(NamedTuple):
  """Why a lead decides nothing, as the end of a sentence and in a few words."""

  text: str
  reason: str


def which(field: Field, question: Question) -> Answer | None:
  """Returns which norm, or which algorithm, is best.

  Norms are compared by their best contenders, so each with the algorithm and the local steps that
  suit it. The norm of the best contender is decided if, for each other norm,

  - the interval of the best contender's lead over the best one with that norm is above 0, and the
    learning rate of the latter is not at the edge of its search;
  - the counterpart of the best contender has a result: the one with the other norm but with the
    same algorithm, local steps and further options. Otherwise the lead may be due to these;
  - no contender with the other norm may overtake the best one with more rounds: none of those that
    still improve gained more in the last third of its evaluations than it is behind
    (:func:`convergence.overtaking`);
  - no contender is pending. Those that diverged lose.

  The same holds for algorithms, with the same norm for the counterpart.

  Args:
    field: the contenders.
    question: whether norms or algorithms are compared.

  Returns:
    The answer; None if all contenders have the same norm, or none has a score.
  """
  label_of = question.label_of
  labels = sorted({label_of(one) for one in field.members})
  if len(labels) < 2 or not field.finished:
    return None
  best = field.finished[0]
  leaders: dict[str, Contender] = {}
  for one in field.finished:
    leaders.setdefault(label_of(one), one)
  own, *rivals = leaders
  chosen, tied, sentences, reasons = [own], [best], [], []
  for label in rivals:
    doubt = _doubt(field, best, leaders[label], unmeasured(field, question, label))
    text = field.lead_text(best, leaders[label], f", the best with {label},")
    if doubt:
      chosen.append(label)
      tied.append(leaders[label])
      reasons.append(doubt.reason)
      text += f"; {doubt.text}"
    elif field.lead(best, leaders[label]).high <= field.margin:
      text += f"; a lead of less than {field.margin_text}"
    sentences.append(f"{text}.")
    members = [one for one in field.finished if label_of(one) == label]
    if not doubt and (risers := convergence.overtaking(field, best, members)):
      chosen.append(label)
      reasons.append(convergence.OVERTAKES)
      sentences.append(convergence.overtaking_text(field, best, risers[0]))
  for label in labels:
    states = [one.state for one in field.others if label_of(one) == label]
    if label not in leaders:
      sentences.append(f"No contender with {label} has a result.")
    elif "pending" in states:
      sentences.append(f"Not all contenders with {label} have finished.")
    # Divergence and options that contradict each other are results, a crash is none.
    if "pending" in states or (label not in leaders and "failed" in states):
      chosen += [label] if label not in chosen else []
      tied += [leaders[label]] if label in leaders and leaders[label] not in tied else []
      reasons.append(MISSING)
  return Answer(
    f"Which {question.kind}?",
    verdict(not reasons),
    tuple(chosen),
    tuple(sentences),
    distinct(reasons),
    tuple(tied) if len(tied) > 1 else (),
    convergence.still_improving(field),
  )


def _doubt(field: Field, best: Contender, other: Contender, unlike: str) -> Doubt | None:
  """Returns why the lead of the best contender decides nothing; None if it does.

  ``unlike`` is why the two were not compared with everything else equal, if they were not.
  """
  lead = field.lead(best, other)
  if lead.seeds < 2:
    return Doubt(NO_EVIDENCE, TOO_FEW)
  if lead.within(field.margin) and not lead.low > 0:
    reason = f"equally good within {field.margin_text}"
    return Doubt(f"they are {reason}", reason)
  if lead.high < 0:
    return Doubt("their order is not clear", "other seeds than those of the best one")
  if not lead.low > 0:
    return chance(lead)
  if lead.constant and lead.seeds < FEW_SEEDS:
    return Doubt(f"{lead.seeds} equal differences decide nothing", TOO_FEW)
  if at_edge(other):
    return Doubt(f"but {quoted(other)} may be better at a rate beyond its search", AT_EDGE)
  return Doubt(f"but {unlike}", "not compared with everything else equal") if unlike else None


def chance(lead: Difference) -> Doubt:
  """Returns the doubt about a lead whose interval contains the value that matters."""
  if lead.seeds < FEW_SEEDS or seeds_needed(lead):
    return Doubt(f"the interval contains 0, so {lead.seeds} seeds are too few to tell", TOO_FEW)
  return Doubt("the interval contains 0", "the seeds vary too much")


def at_edge(contender: Contender) -> bool:
  """Returns whether a better rate may lie beyond the search of a contender."""
  return bool(contender.tuning and contender.tuning.edge)


def verdict(decided: bool) -> Literal["decided", "undecided"]:
  """Returns the verdict as a word."""
  return "decided" if decided else "undecided"


def distinct(reasons: Sequence[str]) -> tuple[str, ...]:
  """Returns each reason once, in order."""
  return tuple(dict.fromkeys(reasons))
