"""The questions of a study, and what the contenders of one setting answer."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from fedjax_norm.study import ranking
from fedjax_norm.study.advice import wording
from fedjax_norm.study.advice.wording import quoted
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.statistics import Difference, paired_difference
from fedjax_norm.training.terminal.tables import human_bytes

HOW_MUCH = "How much communication?"
_NO_EVIDENCE = "that decides nothing"


class Answer(NamedTuple):
  """The answer to one question in one setting.

  Attributes:
    question: the question, such as ``Which norm?``.
    verdict: whether the runs decide it.
    choice: the recommended values; several if the runs do not decide between them.
    sentences: the evidence.
    tied: the contender that is best, and one that the runs cannot tell from it; None if decided.
  """

  question: str
  verdict: Literal["decided", "undecided"]
  choice: tuple[str, ...]
  sentences: tuple[str, ...]
  tied: tuple[Contender, Contender] | None = None


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


def which(field: Field, kind: str, label_of: Callable[[Contender], str]) -> Answer | None:
  """Returns which norm, or which algorithm, is best.

  It is decided if the interval of the best contender's lead over the best contender of each other
  norm is above 0, the learning rate of none of these is at the edge of the search, and all
  contenders with another norm have finished; those that diverged lose.

  Args:
    field: the contenders.
    kind: what is asked, such as ``norm``.
    label_of: function that returns a contender's norm.

  Returns:
    The answer; None if all contenders have the same norm, or none has a score.
  """
  labels = sorted({label_of(one) for one in [*field.finished, *field.others]})
  if len(labels) < 2 or not field.finished:
    return None
  best = field.finished[0]
  leaders: dict[str, Contender] = {}
  for one in field.finished:
    leaders.setdefault(label_of(one), one)
  own, *rivals = leaders
  tied, sentences = [own], []
  for label in rivals:
    doubt = _doubt(field, best, leaders[label])
    tied += [label] if doubt else []
    text = field.lead_text(best, leaders[label], f", the best with {label},")
    sentences.append(f"{text}{doubt}.")
  for label in labels:
    states = [one.state for one in field.others if label_of(one) == label]
    if label not in leaders:
      sentences.append(f"No contender with {label} has a result.")
    elif "pending" in states:
      sentences.append(f"Not all contenders with {label} have finished.")
    # Divergence and options that contradict each other are results, a crash is none.
    unknown = "pending" in states or (label not in leaders and "failed" in states)
    tied += [label] if unknown and label not in tied else []
  rival = next((leaders[label] for label in tied[1:] if label in leaders), None)
  pair = (best, rival) if rival else None
  return Answer(f"Which {kind}?", _verdict(len(tied) == 1), tuple(tied), tuple(sentences), pair)


def _doubt(field: Field, best: Contender, other: Contender) -> str:
  """Returns why a lead decides nothing, as the end of a sentence; empty if it does."""
  lead = field.lead(best, other)
  if lead.seeds >= 2 and not lead.low > 0:
    return "; the interval contains 0" if lead.high >= 0 else "; their order is not clear"
  if lead.seeds < 2:
    return f"; {_NO_EVIDENCE}"
  if other.tuning and other.tuning.edge:
    return f"; but {quoted(other)} may be better at a rate beyond its search"
  return ""


def how_much(field: Field) -> Answer | None:
  """Returns the contender that communicates least of those at most the margin behind the best.

  It is decided if the interval of its difference to the best contender lies within the margin; or,
  if no cheaper contender is that good, if the intervals of all of them lie beyond the margin.

  Returns:
    The answer; None if all contenders send the same number of bytes, or none has a score.
  """
  if len({_cost(one) for one in field.finished}) < 2:
    return None
  best, *others = field.finished
  cheaper = sorted((one for one in others if _cost(one) < _cost(best)), key=_key)
  choice, sentences = (
    _among_cheaper(field, cheaper)
    if cheaper
    else (
      [best],
      [f"{quoted(best)}, the best contender, also sends least: {_bytes(best)} per run."],
    )
  )
  waiting = any(one.state == "pending" for one in field.others)
  if waiting:
    sentences.append("Not all contenders have finished.")
  tied = next(((best, one) for one in choice if len(choice) > 1 and one != best), None)
  names, verdict = tuple(one.name for one in choice), _verdict(len(choice) == 1 and not waiting)
  return Answer(HOW_MUCH, verdict, names, tuple(sentences), tied)


def _among_cheaper(field: Field, cheaper: list[Contender]) -> tuple[list[Contender], list[str]]:
  """Returns the recommended contenders and the evidence.

  Args:
    field: the contenders.
    cheaper: those that send less than the best one, the cheapest first.
  """
  best = field.finished[0]
  margin = field.criterion.margin(field.mean(best))
  words = wording.margin(field.criterion, field.mean(best))
  leads = {one.name: field.lead(best, one) for one in cheaper}
  if close := [one for one in cheaper if leads[one.name].mean <= margin]:
    sure = [one for one in close if leads[one.name].high <= margin]
    choice = close[:1] if close[0] in sure else [close[0], *(sure or [best])[:1]]
    first = f"{quoted(close[0])} sends {_bytes(close[0])} per run, {_saving(close[0], best)} less "
    first += f"than the best contender, {quoted(best)}, which sends {_bytes(best)}."
    loses = "loses at most" if len(choice) == 1 else "may lose more than"
    end = f"the cheaper one {loses} {words}" if leads[close[0].name].seeds > 1 else _NO_EVIDENCE
    return choice, [first, f"{field.lead_text(best, close[0])}; {end}."]
  unsure = [one for one in cheaper if _may_be_close(leads[one.name], margin, one)]
  shown = unsure[0] if unsure else min(cheaper, key=lambda one: (leads[one.name].mean, *_key(one)))
  loses = "may lose no more than" if unsure else "loses more than"
  others = "" if unsure or len(cheaper) == 1 else ", and the others that send less lose even more"
  first = f"{quoted(best)}, the best contender, sends {_bytes(best)} per run."
  end = f"the cheaper one, with {_bytes(shown)}, {loses} {words}{others}"
  end = end if leads[shown.name].seeds > 1 else _NO_EVIDENCE
  return [best, *unsure[:1]], [first, f"{field.lead_text(best, shown)}; {end}."]


def _saving(cheap: Contender, best: Contender) -> str:
  """Returns how much less one contender sends, such as ``40%`` or ``12 times``."""
  ratio = _cost(best) / _cost(cheap) if _cost(cheap) else math.inf
  return f"{ratio:.3g} times" if 2 <= ratio < math.inf else f"{1 - 1 / ratio:.0%}"


def _may_be_close(lead: Difference, margin: float, other: Contender) -> bool:
  return not lead.low > margin or bool(other.tuning and other.tuning.edge)


def _verdict(decided: bool) -> Literal["decided", "undecided"]:
  return "decided" if decided else "undecided"


def _key(contender: Contender) -> tuple[float, str]:
  return _cost(contender), contender.name


def _cost(contender: Contender) -> float:
  return ranking.sent(contender)


def _bytes(contender: Contender) -> str:
  return human_bytes(round(_cost(contender)))
