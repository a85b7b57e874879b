"""What the contenders of one setting cannot tell."""

import math
from collections.abc import Iterator

from fedjax_norm.study import ranking
from fedjax_norm.study.advice import convergence, wording
from fedjax_norm.study.advice.counterparts import QUESTIONS, without_counterpart
from fedjax_norm.study.advice.field import Field
from fedjax_norm.study.advice.wording import listing, quoted
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.statistics import FEW_SEEDS

_UNEVEN = 1.5  # how many times larger than the average the largest class of an uneven test set is
_LONGER = 1.2  # how many times more examples than another contender make training unequally long
_WHY_NOT_RANKED = {
  "pending": "not finished yet",
  "diverged": "diverged",
  "failed": "failed",
  "impossible": "impossible",
  "done": "without this score",
}


def limits(field: Field) -> list[str]:
  """Returns what the results cannot tell, as sentences."""
  found = (
    _seeds, _like_for_like, _rates, _lengths, _convergence, _unstable, _not_ranked, _guessing,
    _uneven_classes,
  )  # fmt: skip
  return [text for one in found for text in one(field)]


def few_seeds(field: Field) -> int:
  """Returns the smallest number of seeds of a contender with a score; 0 without contenders."""
  return min((ranking.score(one, field.criterion).seeds for one in field.finished), default=0)


def too_short(field: Field) -> list[Contender]:
  """Returns the contenders with too few evaluations to tell whether they have converged."""
  return [one for one in field.finished if math.isnan(ranking.gain(one, field.criterion))]


def untuned(field: Field) -> bool:
  """Returns whether contenders are compared whose rates were given."""
  return len(field.finished) > 1 and any(one.tuning is None for one in field.finished)


def largest_class(field: Field) -> tuple[str, float] | None:
  """Returns name and share of the largest class of an uneven test set, if all examples count alike.

  Returns:
    The name and the share of the test examples; None for an even test set or another measure.
  """
  if field.criterion.measure != "top1" or not field.finished:
    return None
  evaluation = field.finished[0].runs[0].evaluation or {}
  classes = [(row["examples"], row["name"]) for row in evaluation.get("classes", ())]
  total = sum(examples for examples, _ in classes)
  most, name = max(classes, default=(0, ""))
  uneven = total and len(classes) > 1 and most * len(classes) >= _UNEVEN * total
  return (name, most / total) if uneven else None


def _seeds(field: Field) -> Iterator[str]:
  if len(field.finished) < 2:
    return
  best, *others = field.finished
  fewest = few_seeds(field)
  if fewest == 1:
    yield "One seed gives no interval, so each difference may be due to chance."
    return
  leads = [(one, field.lead(best, one)) for one in others]
  if tied := [one for one, lead in leads if lead.low <= 0 <= lead.high]:
    yield f"The seeds do not separate {quoted(best)} from {_names(tied)}: the intervals contain 0."
  if apart := [one for one, lead in leads if lead.seeds < 2]:
    yield f"{_names(apart)} and {quoted(best)} have fewer than two seeds in common, so no interval."
  if same := [one for one, lead in leads if lead.constant]:
    yield (
      f"With every seed, {quoted(best)} differs from {_names(same)} by exactly as much, which a "
      "small test set may cause; such an interval is too narrow."
    )
  if fewest < FEW_SEEDS:
    yield f"{fewest} seeds give wide intervals."
  if len(others) > 1:
    yield (
      f"The best of {len(field.finished)} contenders was chosen by the scores that are reported, "
      "so its score is a little too high; and about one in 20 intervals misses the true difference."
    )


def _like_for_like(field: Field) -> Iterator[str]:
  """Names what was tried with one norm and not with another one; the same for algorithms."""
  for question in QUESTIONS:
    labels = [question.label_of(one) for one in field.finished]
    own = next(iter(labels), "")
    for label in sorted({*labels} - {own}):
      if found := without_counterpart(field, question, label):
        yield (
          f"With {label} instead of {own}, there is no result like {_names(found)}, so the two "
          f"{question.kind}s are not compared there."
        )


def _rates(field: Field) -> Iterator[str]:
  for edge, word in (("lowest", "lower"), ("highest", "higher")):
    found = [one for one in field.finished if one.tuning and one.tuning.edge == edge]
    if found:
      rates = listing([f"{quoted(one)} (lr={one.tuning.lr:g})" for one in found if one.tuning])
      yield (
        f"The best learning rate is the {edge} one of the search for {rates}; a {word} rate may be "
        "better."
      )
  trials = [trial for one in field.finished if one.tuning for trial in one.tuning.trials]
  if judged := sorted({trial.examples for trial in trials if trial.examples}):
    number = " to ".join(f"{count:,}" for count in dict.fromkeys([judged[0], judged[-1]]))
    yield (
      f"Each learning rate was judged by one run, with one seed, on {number} validation examples, "
      "so the order of close rates may be chance."
    )
  if untuned(field):
    yield (
      "Learning rates were given, not tuned for each contender, so a difference may be due to the "
      "rate."
    )


def _lengths(field: Field) -> Iterator[str]:
  seen = [(ranking.trained_on(one).mean, one) for one in field.finished]
  seen = [(number, one) for number, one in seen if number > 0]
  if not seen:
    return
  (least, short), (most, long) = (end(seen, key=lambda found: found[0]) for end in (min, max))
  if most > _LONGER * least:
    yield (
      f"Training was not equally long: {quoted(long)} saw {most:,.0f} training examples and "
      f"{quoted(short)} {least:,.0f}, so a difference may be due to that."
    )


def _convergence(field: Field) -> Iterator[str]:
  if rising := convergence.improving(field):
    yield (
      f"The budget is too small for {_names(rising)} to converge: the last third of the "
      f"evaluations is on average more than {field.margin_text} better than the third before it, "
      "so more rounds may change the order."
    )
  if short := too_short(field):
    yield f"The evaluations of {_names(short)} are too few to tell whether training had converged."


def _unstable(field: Field) -> Iterator[str]:
  falls = [
    f"{quoted(one)} ({wording.amount(field.criterion, ranking.fall(one, field.criterion))})"
    for one in field.finished
    if ranking.unstable(one, field.criterion)
  ]
  if falls:
    yield (
      "Training is unstable, because the last value is far worse than the one in the best round, "
      f"for {listing(falls)}; how good a model is depends much on the round."
    )


def _not_ranked(field: Field) -> Iterator[str]:
  groups: dict[tuple[str, str | None], list[Contender]] = {}
  for one in field.others:
    groups.setdefault((one.state, one.reason), []).append(one)
  for (state, reason), members in groups.items():
    why = f": {reason.rstrip('. ')}" if reason else ""
    yield f"Not ranked, because {_WHY_NOT_RANKED[state]}: {_names(members)}{why}."


def _guessing(field: Field) -> Iterator[str]:
  if found := [one for one in field.finished if ranking.guesses(one)]:
    yield f"With at least one seed, {_names(found)} did no better than guessing."


def _uneven_classes(field: Field) -> Iterator[str]:
  if found := largest_class(field):
    yield (
      f"{found[1]:.0%} of the test examples are of the class {found[0]}, so top-1 says little "
      "about rare classes."
    )


def _names(contenders: list[Contender]) -> str:
  return listing(list(map(quoted, contenders)))
