"""The answer of a study in words: which norm, which algorithm, how much communication."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_norm.study import ranking
from fedjax_norm.study.advice import wording
from fedjax_norm.study.advice.answers import Answer, which
from fedjax_norm.study.advice.communication import HOW_MUCH, how_much
from fedjax_norm.study.advice.counterparts import QUESTIONS
from fedjax_norm.study.advice.field import Field, make_field
from fedjax_norm.study.advice.limits import limits
from fedjax_norm.study.advice.next_steps import next_steps
from fedjax_norm.study.advice.remarks import remarks
from fedjax_norm.study.advice.wording import criterion_text, listing, quoted
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion

_WRAP = textwrap.TextWrapper(100, break_long_words=False, break_on_hyphens=False)


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
  contenders: Sequence[Contender], criterion: Criterion, study: Path | None = None
) -> Recommendation:
  """Returns the answer that follows from the results.

  Args:
    contenders: the contenders of all settings, in any order.
    criterion: by what they are ranked.
    study: the folder of their study, so that the next steps name its options; None for other runs.
  """
  settings = ranking.by_setting(contenders)
  conclusions = (_conclude(name, of, criterion, study, contenders) for name, of in settings.items())
  return Recommendation(criterion, tuple(conclusions))


def as_text(recommendation: Recommendation) -> str:
  """Returns the recommendation as plain text for the terminal."""
  several = len(recommendation.conclusions) > 1
  parts = [_conclusion_text(one, several) for one in recommendation.conclusions]
  return "\n\n".join([_WRAP.fill(criterion_text(recommendation.criterion)), *parts])


def as_json(recommendation: Recommendation) -> dict[str, Any]:
  """Returns the recommendation as dicts and lists of types that JSON can store."""
  settings = []
  for one in recommendation.conclusions:
    answers = [{k: v for k, v in a._asdict().items() if k != "tied"} for a in one.answers]
    settings.append({**one._asdict(), "answers": answers})
  return {"criterion": recommendation.criterion._asdict(), "settings": settings}


def _conclude(
  setting: str,
  contenders: Sequence[Contender],
  criterion: Criterion,
  study: Path | None,
  everyone: Sequence[Contender],
) -> Conclusion:
  field = make_field(contenders, criterion)
  found = *(which(field, question) for question in QUESTIONS), how_much(field)
  answers = tuple(answer for answer in found if answer)
  return Conclusion(
    setting,
    field.finished[0].name if field.finished else None,
    _summary(field),
    answers,
    tuple(remarks(field, ranking.target(contenders, criterion))),
    tuple(limits(field)),
    tuple(next_steps(field, answers, study, everyone)),
  )


def _summary(field: Field) -> str:
  if not field.finished:
    return "No contender has a result."
  best, *others = field.finished
  score = ranking.score(best, field.criterion)
  result = f"{field.criterion.form.title} {wording.value(field.criterion, score)}"
  seeds = "one seed" if score.seeds == 1 else f"{score.seeds} seeds"
  if not others:
    return f"{quoted(best)} is the only contender with a result: {result} ({seeds})."
  text = f"{quoted(best)} is the best of {len(field.finished)} contenders: {result} ({seeds})"
  unsure = [one for one in others if not field.lead(best, one).low > 0]
  tied = [quoted(one) for one in unsure]
  if tied:
    close = all(field.lead(best, one).within(field.margin) for one in unsure)
    words = "is no more than {0} better" if close else "may be no better"
    return f"{text}, but it {words.format(field.margin_text)} than {listing(tied)}."
  return f"{text}, and its lead over each other one is more than chance explains."


def _conclusion_text(conclusion: Conclusion, several: bool) -> str:
  lines = [f"Setting {conclusion.setting}"] if several else []
  lines.append(_WRAP.fill(conclusion.summary))
  blocks = [(f"{one.question} {verdict_text(one)}", one.sentences) for one in conclusion.answers]
  blocks += [
    ("Also", conclusion.remarks),
    ("What this cannot tell", conclusion.limits),
    ("What to run next", conclusion.next_steps),
  ]
  for title, sentences in blocks:
    if sentences:
      lines += ["", _WRAP.fill(title), *map(_item, sentences)]
  return "\n".join(lines)


def _item(sentence: str) -> str:
  return "- " + textwrap.indent(_WRAP.fill(sentence), "  ").lstrip()


def verdict_text(answer: Answer) -> str:
  """Returns the verdict in a few words, such as ``Undecided: gn or bn (too few seeds).``

  If contenders still improve, it is decided only at the budget of the runs, and says so.
  """
  form = '"{}"' if answer.question == HOW_MUCH else "{}"  # names of contenders have commas
  choice = listing([form.format(one) for one in answer.choice], "or")
  why = f" ({'; '.join(answer.reasons)})" if answer.reasons else ""
  if answer.verdict == "decided" and answer.improving:
    return f"Decided at this budget: {choice} ({answer.improving})."
  return f"{answer.verdict.capitalize()}: {choice}{why}."
