"""What to run next, to decide what the contenders of one setting leave open."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedjax_norm.study.advice import limits
from fedjax_norm.study.advice.answers import Answer, at_edge
from fedjax_norm.study.advice.communication import HOW_MUCH
from fedjax_norm.study.advice.counterparts import QUESTIONS, unmeasured
from fedjax_norm.study.advice.field import Field
from fedjax_norm.study.advice.wording import amount, listing, quoted
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.statistics import FEW_SEEDS, MOST_SEEDS, Difference, seeds_needed

_NOTHING = "Nothing more is needed to answer these questions for this budget."
_SMALL = 2  # margins up to which an uncertain difference may be left to the costs
_ELSEWHERE = "Run the same command with another --workdir"


def next_steps(field: Field, answers: Sequence[Answer], study: Path | None) -> list[str]:
  """Returns what to run next, as sentences.

  Args:
    field: the contenders.
    answers: the answers to the questions that they pose.
    study: the folder of their study; None for other runs.
  """
  steps = [*_pending(field, study), *_seeds(field, answers, study), *_missing(field, study)]
  steps += [*_rates(field, study), *_rounds(field, study), *_measure(field, study)]
  return steps or ([_NOTHING] if answers else [])


def _pending(field: Field, study: Path | None) -> Iterator[str]:
  if any(one.state == "pending" for one in field.others):
    again = f" with {_workdir(study)}" if study else ""
    yield f"Start the same command again{again}, which runs what is missing."


def _seeds(field: Field, answers: Sequence[Answer], study: Path | None) -> Iterator[str]:
  """Says how many seeds would decide the questions that chance leaves open."""
  needed: dict[str, int] = {}
  for answer in answers:
    margin = field.margin if answer.question == HOW_MUCH else 0.0
    best, *rivals = answer.tied or (None,)
    for rival in rivals:
      assert best is not None
      lead = field.lead(best, rival)
      beyond = lead.minus(margin)  # how much? asks on which side of the margin the lead is
      if not margin and lead.within(field.margin) and not lead.decided:
        text = f"{quoted(best)} and {quoted(rival)} are equally good within {field.margin_text}"
        yield f"{answer.question} {text}, so choose by their costs."
      elif lead.seeds >= FEW_SEEDS and beyond.decided:
        continue  # something else than chance leaves it open
      elif count := _count(beyond):
        needed[answer.question] = max(count, needed.get(answer.question, 0))
      else:
        yield f"{answer.question} {_hopeless(field, (best, rival), margin, study)}"
  if needed:
    count = max(needed.values())
    enough = count > FEW_SEEDS
    expected = "enough if the differences stay as they are" if enough else "for narrower intervals"
    open_ = listing([question.rstrip("?").lower() for question in needed])
    yield f"{_with_seeds(field, study, count)}, {expected}, to decide {open_}."


def _count(lead: Difference) -> int | None:
  """Returns the number of seeds to try next; None if it would be too large."""
  if lead.seeds < 2:
    return FEW_SEEDS
  count = seeds_needed(lead)
  return FEW_SEEDS if lead.seeds < FEW_SEEDS and (lead.decided or not count) else count


def _hopeless(
  field: Field, pair: tuple[Contender, Contender], margin: float, study: Path | None
) -> str:
  """Returns what to do about a difference that more seeds would hardly show.

  ``margin`` is 0, or the loss in question.
  """
  lead, (best, rival) = field.lead(*pair), map(quoted, pair)
  ends = [lead.high] if margin else [abs(lead.low), abs(lead.high)]
  most = amount(field.criterion, max(ends))
  longer = "a larger --budget or --steps" if study else "more --rounds"
  if margin:
    what = f"whether {rival} loses more than {field.margin_text} to {best}; it may lose up to"
  else:
    what = f"{best} from {rival}, which differ by at most about"
  costs = "choose by their costs, or " if max(ends) <= _SMALL * field.margin else ""
  return (
    f"More than {MOST_SEEDS} seeds would be needed to tell {what} {most}; {costs}see whether "
    f"longer training, with {longer}, separates them."
  )


def _with_seeds(field: Field, study: Path | None, count: int) -> str:
  """Returns how to get more seeds; runs of one seed cannot get more of them in their folders."""
  single = any(len(one.runs) == 1 for one in field.finished)
  if study:
    where = _ELSEWHERE if single else f"Run the same command with {_workdir(study)}"
    return f"{where} and --seeds={count}"
  where = ", runs of one seed in new folders" if single else ", in the same folders"
  return f"Run the commands of all runs with --seeds={count}{where}"


def _missing(field: Field, study: Path | None) -> Iterator[str]:
  """Says which counterpart of the best contender to run."""
  for question in QUESTIONS if field.finished else ():
    best = field.finished[0]
    labels = {question.label_of(one) for one in field.finished} - {question.label_of(best)}
    for label in sorted(labels):
      why, steps = unmeasured(field, question, label), best.options.get("local_steps")
      if why and study and question.kind == "algorithm" and steps and "failed" not in why:
        yield (
          f"Run the same command with {_workdir(study)} and {label}:local_steps={steps} added to "
          "--algorithms."
        )
      elif why and not study:
        yield f"Run {quoted(best)} with the {question.kind} {label} as well."


def _rates(field: Field, study: Path | None) -> Iterator[str]:
  """Names a grid with the best rates of all contenders, and beyond those at the edge."""
  rates: set[float] = set()
  for one in field.finished:
    if one.tuning:
      best, second = one.tuning.lr, one.tuning.runner_up or one.tuning.lr
      factors = {"lowest": (1 / 3, 1 / 10), "highest": (3.3, 10), None: ()}[one.tuning.edge]
      rates |= {best, second, *(float(f"{best * factor:.1g}") for factor in factors)}
  if any(map(at_edge, field.finished)):
    grid = ",".join(f"{rate:g}" for rate in sorted(rates))
    yield f"Search further for the rates at the edge: {_ELSEWHERE.lower()} and --lrs={grid}."
  if limits.untuned(field):
    how = f"{_ELSEWHERE} and --lrs=auto" if study else "Start a study (experiments.study)"
    yield f"{how}, which tunes the rate of each contender."


def _rounds(field: Field, study: Path | None) -> Iterator[str]:
  if limits.improving(field):
    longer = f"{_ELSEWHERE} and twice the --budget (or --steps)"
    how = longer if study else "Continue the runs with more --rounds"
    yield f"{how}, until the curves are flat."
  elif limits.too_short(field):
    longer = f"{_ELSEWHERE} and a larger --budget (or --steps)"
    how = longer if study else "Evaluate the runs more often (--eval_every)"
    yield f"{how}, to see whether the curves are flat."


def _measure(field: Field, study: Path | None) -> Iterator[str]:
  measured = all("balanced_accuracy" in run.summary for one in field.finished for run in one.runs)
  if limits.largest_class(field) and measured:
    what = shlex.quote(str(study)) if study else "FOLDERS"
    yield (
      "Rank the same runs by balanced accuracy, which weights all classes equally: python -m "
      f"experiments.compare {what} --measure=balanced_accuracy (nothing is trained again)."
    )


def _workdir(study: Path) -> str:
  return f"--workdir={shlex.quote(str(study))}"
