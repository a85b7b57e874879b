"""What to run next, to decide what the contenders of one setting leave open."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedjax_norm.invocation import command
from fedjax_norm.study.advice import convergence, limits
from fedjax_norm.study.advice.answers import Answer, at_edge
from fedjax_norm.study.advice.communication import HOW_MUCH
from fedjax_norm.study.advice.counterparts import QUESTIONS, unmeasured
from fedjax_norm.study.advice.field import Field
from fedjax_norm.study.advice.wording import amount, listing, quoted
from fedjax_norm.study.contender import Contender, Tuning
from fedjax_norm.study.statistics import FEW_SEEDS, MOST_SEEDS, Difference, seeds_needed

_NOTHING = "Nothing more is needed to answer these questions for this budget."
_SMALL = 2  # margins up to which an uncertain difference may be left to the costs
_COMMAND = "Run the study's command"
_ELSEWHERE = f"{_COMMAND} with another --workdir"


def next_steps(
  field: Field, answers: Sequence[Answer], study: Path | None, everyone: Sequence[Contender] = ()
) -> list[str]:
  """Returns what to run next, as sentences.

  Args:
    field: the contenders.
    answers: the answers to the questions that they pose.
    study: the folder of their study; None for other runs.
    everyone: the contenders of all settings, which share the study's learning rates.
  """
  steps = [*_pending(field, study), *_seeds(field, answers, study), *_missing(field, study)]
  steps += [*_rates(field, study, everyone), *_rounds(field, study), *_measure(field, study)]
  return steps or ([_NOTHING] if answers else [])


def _pending(field: Field, study: Path | None) -> Iterator[str]:
  if any(one.state == "pending" for one in field.others):
    again = f" with {_workdir(study)}" if study else ""
    yield f"Run the study's command again{again}, which runs what is missing."
  if failed := [quoted(one) for one in field.others if one.state == "failed"]:
    again = f" with {_workdir(study)}" if study else ""
    yield f"Run the study's command again{again}, which tries again what failed: {listing(failed)}."


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
    where = _ELSEWHERE if single else f"{_COMMAND} with {_workdir(study)}"
    return f"{where} and --seeds={count}"
  where = ", runs of one seed in new folders" if single else ", in the same folders"
  return f"Repeat the runs with --seeds={count}{where}"


def _missing(field: Field, study: Path | None) -> Iterator[str]:
  """Says which counterpart of the best contender to run."""
  for question in QUESTIONS if field.finished else ():
    best = field.finished[0]
    labels = {question.label_of(one) for one in field.finished} - {question.label_of(best)}
    for label in sorted(labels):
      why, steps = unmeasured(field, question, label), best.options.get("local_steps")
      if why and study and question.kind == "algorithm" and steps and "failed" not in why:
        yield (
          f"{_COMMAND} with {_workdir(study)} and {label}:local_steps={steps} added to "
          "--algorithms."
        )
      elif why and not study:
        yield f"Run {quoted(best)} with the {question.kind} {label} as well."


def _rates(field: Field, study: Path | None, everyone: Sequence[Contender]) -> Iterator[str]:
  """Names a grid for all contenders that goes on where a rate is at the edge of its search.

  It has the chosen rate of each contender, its neighbours in the search and the second best rate.
  """
  if any(map(at_edge, field.finished)):
    tunings = [one.tuning for one in [*field.members, *everyone] if one.tuning]
    rates = {f"{rate:g}": rate for tuning in tunings for rate in _around(tuning)}
    grid = ",".join(sorted(rates, key=lambda text: rates[text]))
    where = _ELSEWHERE if study else f"{_COMMAND} ({command('study')}) with another --workdir"
    where = f"{where[0].lower()}{where[1:]}"
    yield f"Search further for the rates at the edge: {where} and --lrs={grid}."
  if limits.untuned(field):
    how = f"{_ELSEWHERE} and --lrs=auto" if study else f"Start a study ({command('study')})"
    yield f"{how}, which tunes the rate of each contender."


def _around(tuning: Tuning) -> list[float]:
  """Returns the chosen rate, its neighbours, the second best one, and those beyond an edge."""
  tried = sorted({trial.lr for trial in tuning.trials} | {tuning.lr})
  place = tried.index(tuning.lr)
  factors = {"lowest": (1 / 3, 1 / 10), "highest": (3.3, 10), None: ()}[tuning.edge]
  beyond = [float(f"{tuning.lr * factor:.1g}") for factor in factors]
  second = [tuning.runner_up] if tuning.runner_up else []
  return [*tried[max(0, place - 1) : place + 2], *second, *beyond]


def _rounds(field: Field, study: Path | None) -> Iterator[str]:
  if convergence.improving(field):
    longer = f"{_ELSEWHERE} and twice the --budget (or --steps)"
    how = longer if study else "Continue the runs with more --rounds"
    yield f"{how}, until the curves are flat."
  elif limits.too_short(field):
    longer = f"{_ELSEWHERE} and a larger --budget (or --steps)"
    how = longer if study else "Repeat the runs in new folders with a smaller --eval_every"
    yield f"{how}, to see whether the curves are flat."


def _measure(field: Field, study: Path | None) -> Iterator[str]:
  measured = all("balanced_accuracy" in run.summary for one in field.finished for run in one.runs)
  if limits.largest_class(field) and measured:
    what = shlex.quote(str(study)) if study else "FOLDERS"
    yield (
      "Rank the same runs by balanced accuracy, which weights all classes equally: "
      f"{command('compare')} {what} --measure=balanced_accuracy (nothing is trained again)."
    )


def _workdir(study: Path) -> str:
  return f"--workdir={shlex.quote(str(study))}"
