"""What to run next, to decide what the contenders of one setting leave open."""

from collections.abc import Iterator, Sequence

from fedjax_norm.study.advice import limits
from fedjax_norm.study.advice.answers import HOW_MUCH, Answer, Field
from fedjax_norm.study.advice.wording import listing, quoted
from fedjax_norm.study.statistics import MOST_SEEDS, seeds_needed

_NOTHING = "Nothing more is needed to answer these questions for this budget."


def next_steps(field: Field, answers: Sequence[Answer], of_study: bool) -> list[str]:
  """Returns what to run next, as sentences.

  Args:
    field: the contenders.
    answers: the answers to the questions that they pose.
    of_study: whether the contenders are those of a study, so that its options can be named.
  """
  steps = [*_pending(field), *_seeds(field, answers)]
  steps += [*_rates(field, of_study), *_rounds(field, of_study), *_measure(field)]
  return steps or ([_NOTHING] if answers else [])


def _pending(field: Field) -> Iterator[str]:
  if any(one.state == "pending" for one in field.others):
    yield "Start the same command again, which runs what is missing."


def _seeds(field: Field, answers: Sequence[Answer]) -> Iterator[str]:
  """Says how many seeds would decide the questions that chance leaves open."""
  needed: dict[str, int] = {}
  for answer in answers:
    if answer.tied is None:
      continue
    lead = field.lead(*answer.tied)
    if answer.question == HOW_MUCH:  # asks whether the lead is above or below the margin
      lead = lead.minus(field.criterion.margin(field.mean(field.finished[0])))
    if lead.seeds < 2:
      needed[answer.question] = limits.FEW_SEEDS
    elif lead.decided:  # something else than chance leaves it open
      continue
    elif count := seeds_needed(lead):
      needed[answer.question] = count
    else:
      first, second = map(quoted, answer.tied)
      yield (
        f"{answer.question} Even {MOST_SEEDS} seeds would not decide between {first} and {second} "
        "if the differences stay as they are; choose by their costs."
      )
  if needed:
    count = max(needed.values())
    open_ = listing([f"{question.rstrip('?').lower()}" for question in needed])
    few = limits.few_seeds(field) < 2
    expected = "which gives intervals" if few else "enough if the differences stay as they are"
    yield f"Run the same command with --seeds={count}, {expected}, to decide {open_}."


def _rates(field: Field, of_study: bool) -> Iterator[str]:
  rates = set()
  for edge, factors in (("lowest", (1, 1 / 3, 1 / 10)), ("highest", (1, 3, 10))):
    for one in limits.at_edge(field, edge):
      assert one.tuning is not None
      rates |= {float(f"{one.tuning.lr * factor:.1g}") for factor in factors}
  if rates:
    grid = ",".join(f"{rate:g}" for rate in sorted(rates))
    yield f"Search further for the rates at the edge: a study in another folder with --lrs={grid}."
  if limits.untuned(field) and not of_study:
    yield "Tune the rate of each contender with experiments.study."


def _rounds(field: Field, of_study: bool) -> Iterator[str]:
  if limits.improving(field):
    study = "Run a study in another folder with twice the --budget or --steps"
    how = study if of_study else "Continue the runs with more --rounds"
    yield f"{how}, until the curves are flat."


def _measure(field: Field) -> Iterator[str]:
  if limits.largest_class(field):
    yield (
      "Rank the same runs by --measure=balanced_accuracy with experiments.compare, which weights "
      "all classes equally."
    )
