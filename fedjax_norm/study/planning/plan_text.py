"""The plan of a study in words."""

from fedjax_norm.study.planning.budget import SHARE
from fedjax_norm.study.planning.config import duration
from fedjax_norm.study.planning.plan import Plan
from fedjax_norm.study.planning.tuning import EXTENSIONS
from fedjax_norm.training.terminal.tables import columns_table, human_seconds

_SCORES = {
  "best": "at the round with the best validation value",
  "last": "at the end",
  "mean": "mean of the last evaluations",
}


def how(plan: Plan) -> dict[str, str]:
  """Returns how the contenders of a study are trained and ranked: name -> text."""
  impossible = sum(cell.reason is not None for cell in plan.cells)
  count = f"{len(plan.cells)}" + (f", {impossible} of them impossible" if impossible else "")
  seeds = f"seeds {plan.seed} to {plan.seed + plan.seeds - 1}" if plan.seeds > 1 else "one seed"
  about: dict[str, str] = {}
  for name, text in plan.about:  # there can be several notes
    about[name] = f"{about[name]}; {text}" if name in about else text
  return {
    "data": str(plan.options["data"]),
    **about,
    "contenders": count,
    "final runs": f"{plan.effort:,} local steps of each client; {seeds} for each contender",
    "learning rates": _search(plan),
    "ranked by": f"test {plan.measure}, {_SCORES[plan.score]}",
  }


def expected_time(plan: Plan) -> str:
  """Returns the expected time of a study."""
  number = "1 worker" if plan.workers == 1 else f"{plan.workers} workers"
  guess = "" if plan.costs else ", roughly, because nothing was measured"
  return f"{human_seconds(plan.seconds)} with {number}{guess}"


def excess(plan: Plan) -> str:
  """Returns a note if a new study is expected to take longer than its budget; otherwise nothing."""
  if plan.refusal:
    return f"note: the study would be refused: {plan.refusal}"
  available = str(plan.options["budget"])
  if not plan.costs or plan.seconds <= SHARE * duration(available):
    return ""
  return (
    f"note: --budget={available} is short for {plan.effort:,} local steps for each final run, the "
    f"fewest that make sense; the study takes about {human_seconds(plan.seconds)}."
  )


def table(plan: Plan) -> str:
  """Returns a table of the contenders with their rounds and their expected times."""
  rows = [
    [
      cell.label,
      cell.setting,
      f"{cell.rounds or 0:,}" if not cell.reason else "-",
      human_seconds(cell.seconds) if not cell.reason else "-",
      cell.reason or "",
    ]
    for cell in plan.cells
  ]
  head = ["contender", "setting", "rounds", "time", "why it is impossible"]
  if not any(cell.reason for cell in plan.cells):
    head, rows = head[:-1], [row[:-1] for row in rows]
  return columns_table(head, rows)


def _search(plan: Plan) -> str:
  rates, search = plan.rates, plan.search
  if len(rates) == 1:
    return f"{rates[0]:g} for all contenders"
  short, long = search.steps
  then = f", then the best two for {long:,}," if long != short else ""
  more = f", and up to {EXTENSIONS} beyond them if the best is at an end," if plan.extends else ""
  return (
    f"{', '.join(f'{rate:g}' for rate in rates)}{more} for {short:,} local steps{then} with seed "
    f"{plan.seed}; the best one on validation examples is used"
  )
