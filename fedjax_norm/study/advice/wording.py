"""Numbers, names and evidence as parts of sentences."""

from collections.abc import Sequence

from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion
from fedjax_norm.study.statistics import Difference, Estimate

_SCORES = {
  "best": "at the evaluation with the best validation value",
  "last": "at the last evaluation",
  "mean": "as the mean of the last evaluations",
}
_MOST_NAMES = 4


def criterion_text(criterion: Criterion) -> str:
  """Returns by what contenders are ranked, as one sentence."""
  points = "; a point is a percentage point" if _in_percent(criterion) else ""
  lower = "" if criterion.sign > 0 else "; lower is better"
  where = _SCORES[criterion.score]
  title = criterion.form.title.removeprefix("test ")
  return f"Contenders are ranked by their {title} on the test examples, {where}{lower}{points}."


def amount(criterion: Criterion, value: float) -> str:
  """Returns a difference without its sign, such as ``1.25 points`` or ``0.031``."""
  if not _in_percent(criterion):
    return f"{abs(value):.3g}"
  return f"{abs(100 * value):.2f} {'point' if f'{abs(100 * value):.2f}' == '1.00' else 'points'}"


def margin(criterion: Criterion, value: float) -> str:
  """Returns the difference that counts as small, for a score ``value``."""
  if _in_percent(criterion):
    return "1 point"
  return "1%" if criterion.sign < 0 else f"{criterion.margin(value):g}"


def value(criterion: Criterion, estimate: Estimate) -> str:
  """Returns a mean, with its standard deviation if there are several seeds."""
  mean, form = criterion.form.format(estimate.mean), criterion.form
  return f"{mean} ± {form.format(estimate.std)}" if estimate.seeds > 1 else mean


def lead(criterion: Criterion, first: str, second: str, difference: Difference) -> str:
  """Returns by how much one contender is ahead of another, with the interval and the seeds.

  Args:
    criterion: by what contenders are ranked.
    first: text that names the one contender.
    second: text that names the other one.
    difference: positive if ``first`` is better.
  """
  mean, low, high = difference.mean, difference.low, difference.high
  if difference.seeds == 0:
    return f"{first} and {second} have no seed in common"
  words = "is ahead of"
  if amount(criterion, mean) == amount(criterion, 0):
    words, mean = "equals", 0.0
  elif mean < 0:
    words, mean, low, high = "is behind", -mean, -high, -low
  by = f"{words} {second} by {amount(criterion, mean)}" if mean else f"{words} {second.rstrip(',')}"
  return f"{first} {by} ({_evidence(criterion, low, high, difference.seeds)})"


def signed(criterion: Criterion, difference: Difference) -> str:
  """Returns a difference with its sign and its interval; it is positive for the better one."""
  if difference.seeds == 0:
    return "no seed in common"
  size = amount(criterion, difference.mean)
  sign = "-" if difference.mean < 0 and size != amount(criterion, 0) else "+"
  evidence = _evidence(criterion, difference.low, difference.high, difference.seeds)
  better = "" if criterion.sign > 0 else ", above 0 is better"
  return f"{sign}{size} ({evidence}{better})"


def _evidence(criterion: Criterion, low: float, high: float, seeds: int) -> str:
  if seeds < 2:
    return "one seed, so no interval"
  scale, form = (100, "z.2f") if _in_percent(criterion) else (1, ".3g")
  return f"95% interval {scale * low:{form}} to {scale * high:{form}}, {seeds} seeds"


def quoted(contender: Contender) -> str:
  """Returns the name of a contender in quotation marks, because names contain commas."""
  return f'"{contender.name}"'


def listing(words: Sequence[str], joint: str = "and") -> str:
  """Returns words joined as ``a, b and c``; if they are many, the last ones are only counted."""
  shown = list(words[:_MOST_NAMES])
  if rest := len(words) - len(shown):
    shown.append(f"{rest} more")
  return f" {joint} ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _in_percent(criterion: Criterion) -> bool:
  return criterion.form.form.endswith("%")
