"""How much communication the contenders of one setting need for nearly the best score."""

import math
from collections.abc import Iterator, Sequence

from fedjax_norm.study import ranking
from fedjax_norm.study.advice import convergence, factors
from fedjax_norm.study.advice.answers import (
  AT_EDGE,
  MISSING,
  NO_EVIDENCE,
  TOO_FEW,
  Answer,
  at_edge,
  chance,
  distinct,
  verdict,
)
from fedjax_norm.study.advice.field import Field
from fedjax_norm.study.advice.wording import quoted, signed
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import sends_less, sent
from fedjax_norm.study.statistics import Difference
from fedjax_norm.training.terminal.tables import human_bytes

HOW_MUCH = "How much communication?"


def how_much(field: Field) -> Answer | None:
  """Returns the contender that communicates least of those at most the margin behind the best.

  Bytes that differ by less than ``ranking.SAME_BYTES`` count as the same, and of contenders that
  send the same, the one with the best score is named. The question is decided if the interval of
  its difference to the best contender lies within the margin; or, if no cheaper contender is that
  good, if the intervals of all of them lie beyond the margin. It is not if a contender is pending,
  or if the rate of the one that may be better than it seems is at the edge of its search. It is not
  either if a contender with other bytes still improves and gained more in the last third of its
  evaluations than it is behind the named one, because it may overtake that one with more rounds
  (:func:`convergence.overtaking`). Contenders without a score are left out.

  Returns:
    The answer; None if all contenders send the same, or none has a score.
  """
  if not any(sends_less(one, two) for one in field.finished for two in field.finished):
    return None
  best, *others = field.finished
  cheaper = [one for one in others if sends_less(one, best)]
  answer = _among_cheaper(field, cheaper) if cheaper else _best_is_cheapest(best)
  answer = _with_overtaking(field, answer)
  answer = answer._replace(sentences=(*answer.sentences, *_other_work(field)))
  if any(one.state == "pending" for one in field.others):
    sentences = *answer.sentences, "Not all contenders have finished."
    answer = answer._replace(sentences=sentences, reasons=(*answer.reasons, MISSING))
  return answer._replace(
    verdict=verdict(not answer.reasons),
    reasons=distinct(answer.reasons),
    improving=convergence.still_improving(field),
  )


def _with_overtaking(field: Field, answer: Answer) -> Answer:
  """Makes an answer without doubts undecided if another contender may overtake the named one."""
  named = next(one for one in field.finished if one.name == answer.choice[0])
  others = [one for one in field.finished if sends_less(one, named) or sends_less(named, one)]
  risers = convergence.overtaking(field, named, others)
  if answer.reasons or not risers:
    return answer
  return answer._replace(
    choice=(named.name, risers[0].name),
    sentences=(*answer.sentences, convergence.overtaking_text(field, named, risers[0])),
    reasons=(convergence.OVERTAKES,),
  )


def _other_work(field: Field) -> Iterator[str]:
  """Compares the best contender with those that differ from it only in the local steps.

  They say what more communication buys, or what less of it costs.
  """
  best = field.finished[0]

  def equal(one: Contender) -> bool:
    parts = (factors.norm, factors.algorithm, factors.rest)
    return all(part(one) == part(best) for part in parts)

  own = factors.local_work(best)
  others = {factors.local_work(one): one for one in reversed(field.finished) if equal(one)}
  for work, one in sorted(others.items(), key=lambda other: (-sent(other[1]), other[0])):
    if work and own and work != own:
      lead = field.lead(one, best)
      how = _compared(field, lead, dearer=sends_less(best, one))
      yield (
        f'With {work} instead of {own}, "{factors.norm(best)}, {factors.algorithm(best)}" '
        f"{_amount_sent(one, best)} {how}: {signed(field.criterion, lead)}."
      )


def _amount_sent(one: Contender, best: Contender) -> str:
  if sends_less(best, one):
    ratio = sent(one) / sent(best) if sent(best) else math.inf
    return f"sends {ratio:.3g} times as much" if ratio >= 2 else f"sends {ratio - 1:.0%} more"
  if sends_less(one, best):
    return f"sends {_saving(one, best)} less"
  return "sends as much"


def _compared(field: Field, lead: Difference, dearer: bool) -> str:
  """Returns how a contender compares with the best one."""
  if lead.seeds < 2:
    return f"but one seed cannot tell whether it is {'better' if dearer else 'worse'}"
  if not lead.decided and lead.within(field.margin):
    return f"and is equally good within {field.margin_text}"
  if lead.decided:
    return "and is better" if lead.low > 0 else "and is worse"
  return "and is not clearly better" if dearer else "and is not clearly worse"


def _best_is_cheapest(best: Contender) -> Answer:
  text = f"{quoted(best)}, the best contender, sends {_bytes(best)} per run, and no other one sends"
  return _answer([best], [f"{text} less by more than {ranking.SAME_BYTES:.0%}."])


def _among_cheaper(field: Field, cheaper: list[Contender]) -> Answer:
  """Returns the answer if some contenders, ``cheaper``, send less than the best one."""
  best = field.finished[0]
  close = [one for one in cheaper if field.lead(best, one).mean <= field.margin]
  return _close(field, close) if close else _far(field, cheaper)


def _close(field: Field, close: list[Contender]) -> Answer:
  """Returns the answer if cheaper contenders are at most the margin behind the best one."""
  best, cheap = field.finished[0], _cheapest(close)
  sure = [one for one in close if field.lead(best, one).high <= field.margin]
  text = f"{quoted(cheap)} sends {_bytes(cheap)} per run, {_saving(cheap, best)} less than the best"
  first = f"{text} contender, {quoted(best)}, which sends {_bytes(best)}."
  lead, second = field.lead(best, cheap), field.lead_text(best, cheap)
  if lead.seeds < 2:
    return _answer([cheap, best], [first, f"{second}; {NO_EVIDENCE}."], TOO_FEW, best)
  if cheap not in sure:
    rival = _cheapest(sure) if sure else best
    reason = chance(lead.minus(field.margin)).reason
    second += f"; the cheaper one may lose more than {field.margin_text}."
    return _answer([cheap, rival], [first, second], reason, best)
  second += f"; the cheaper one loses at most {field.margin_text}"
  if at_edge(best):
    second += f", but {quoted(best)} may be better at a rate beyond its search."
    return _answer([cheap, best], [first, second], AT_EDGE, best)
  return _answer([cheap], [first, f"{second}."])


def _far(field: Field, cheaper: list[Contender]) -> Answer:
  """Returns the answer if all cheaper contenders are further behind the best one."""
  best = field.finished[0]
  leads = {one.name: field.lead(best, one) for one in cheaper}
  unsure = [one for one in cheaper if not leads[one.name].low > field.margin or at_edge(one)]
  shown = _cheapest(unsure) if unsure else min(cheaper, key=lambda one: leads[one.name].mean)
  lead, text = (
    leads[shown.name],
    f"{quoted(best)}, the best contender, sends {_bytes(best)} per run",
  )
  first, second = f"{text}.", field.lead_text(best, shown)
  cheap = f"the cheaper one, with {_bytes(shown)},"
  if lead.seeds < 2:
    return _answer([best, shown], [first, f"{second}; {NO_EVIDENCE}."], TOO_FEW, best)
  if unsure:
    reason = AT_EDGE if lead.low > field.margin else chance(lead.minus(field.margin)).reason
    edge = f"but {quoted(shown)} may be better at a rate beyond its search"
    end = edge if reason == AT_EDGE else f"{cheap} may lose no more than {field.margin_text}"
    return _answer([best, shown], [first, f"{second}; {end}."], reason, best)
  rest = ", and the others that send less lose even more" if len(cheaper) > 1 else ""
  second += f"; {cheap} loses more than {field.margin_text}{rest}."
  return _answer([best], [first, second])


def _answer(
  choice: Sequence[Contender],
  sentences: Sequence[str],
  reason: str = "",
  best: Contender | None = None,
) -> Answer:
  """Returns an answer, undecided if there is a ``reason``, between the ``best`` and the others."""
  names = tuple(one.name for one in choice)
  tied = (best, *(one for one in choice if one != best)) if best else ()
  return Answer(HOW_MUCH, "decided", names, tuple(sentences), (reason,) if reason else (), tied)


def _cheapest(contenders: Sequence[Contender]) -> Contender:
  """Returns the best of the contenders that send least; ``contenders`` are ordered by score."""
  least = min(contenders, key=sent)
  return next(one for one in contenders if not sends_less(least, one))


def _saving(cheap: Contender, best: Contender) -> str:
  """Returns how much less one contender sends, such as ``40%`` or ``12 times``."""
  ratio = sent(best) / sent(cheap) if sent(cheap) else math.inf
  return f"{ratio:.3g} times" if 2 <= ratio < math.inf else f"{1 - 1 / ratio:.0%}"


def _bytes(contender: Contender) -> str:
  return human_bytes(round(sent(contender)))
