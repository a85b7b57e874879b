"""Further facts about the best contender of a setting: its model, its clients, its costs."""

import math
import shlex
from collections.abc import Iterator

from fedjax_norm.data.names import join_first
from fedjax_norm.invocation import command
from fedjax_norm.study import evaluations, ranking
from fedjax_norm.study.advice import wording
from fedjax_norm.study.advice.field import Field
from fedjax_norm.study.advice.wording import quoted
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.evaluations import client_accuracies, evaluation_of
from fedjax_norm.study.statistics import estimate
from fedjax_norm.training.terminal.tables import human_bytes


def remarks(field: Field, target: float) -> list[str]:
  """Returns the facts as sentences.

  Args:
    field: the contenders.
    target: value of the measure to reach; NaN if there is none.
  """
  if not field.finished:
    return []
  found = _model(field), _clients(field), _unseen(field), _same_bytes(field), _target(field, target)
  return [text for of in found for text in of]


def _model(field: Field) -> Iterator[str]:
  best = field.finished[0]
  if best.single_model:
    yield f"{quoted(best)} yields one model to serve to all clients{_use(field, best)}."
    return
  yield f"{quoted(best)} yields a model for each client, not one model to serve."
  other = next((one for one in field.finished if one.single_model), None)
  if other:
    lead = field.lead_text(best, other)
    yield f"With one model to serve, {quoted(other)} is best{_use(field, other)}: {lead}."


def _use(field: Field, contender: Contender) -> str:
  """Returns how to use the model that a contender's score is of; empty if it does not classify."""
  run = contender.runs[0]
  if not evaluation_of(run, field.criterion.score).get("classes"):
    return ""
  workdir = shlex.quote(f"--workdir={run.path}")
  best = " --best" if field.criterion.score == "best" else ""
  return f", used by `{command('predict')} {workdir}{best} --images=DIR`"


def _clients(field: Field) -> Iterator[str]:
  best, score = field.finished[0], field.criterion.score
  mean = ranking.column(best, "clients_top1", evaluations.moment(score)).mean
  worst, least = evaluations.worst_client(best, score)
  if worst and len(named := client_accuracies(best, score)) > 1:
    mean = estimate(named.values()).mean
  elif worst:
    return
  if math.isfinite(least.mean):
    who = f"is {worst} with" if worst else "has"
    when = evaluations.when(score)
    yield (
      f"{when[:1].upper()}{when[1:]} of {quoted(best)}, the worst client {who} {least.mean:.2%}; "
      f"the mean over the clients is {mean:.2%}."
    )


def _unseen(field: Field) -> Iterator[str]:
  best = field.finished[0]
  score = field.criterion.score
  columns = ("unseen_top1", "unseen_top1_min")
  mean, least = (ranking.column(best, n, evaluations.moment(score)).mean for n in columns)
  if math.isfinite(mean):
    yield (
      f"On clients that took no part in training, it has {mean:.2%} on average and {least:.2%} on "
      f"the worst of them{_listed(client_accuracies(best, score, unseen=True))}."
    )
  each = (best._replace(runs=(run,)) for run in best.runs)
  held_out = [tuple(client_accuracies(one, score, unseen=True)) for one in each]
  if len({frozenset(names) for names in held_out}) > 1:
    names = ",".join(held_out[0])
    # The comma makes a name of a number.
    names = f"'{names},'" if names.isdecimal() else shlex.quote(names)
    yield (
      "The seeds held out different clients, so that the spread over seeds is mostly that of the "
      f"clients; naming them, for instance --unseen_clients={names}, holds out the same with every "
      "seed."
    )


def _listed(accuracies: dict[str, float]) -> str:
  """Returns `` (Bern 50.00%, Oslo 90.00%)``, the lowest accuracies first; empty without names."""
  ranked = sorted(accuracies.items(), key=lambda one: (one[1], one[0]))
  return f" ({join_first([f'{name} {value:.2%}' for name, value in ranked])})" if ranked else ""


def _same_bytes(field: Field) -> Iterator[str]:
  costs = [(ranking.sent(one), one) for one in field.finished]
  (low, cheap), (high, dear) = (end(costs, key=lambda cost: cost[0]) for end in (min, max))
  if len(costs) > 1 and not ranking.sends_less(cheap, dear):
    ends = dict.fromkeys([human_bytes(round(low)), human_bytes(round(high))])
    yield f"All contenders send about the same: {' to '.join(ends)} per run."


def _target(field: Field, target: float) -> Iterator[str]:
  if not math.isfinite(target):
    return
  criterion = field.criterion
  costs = [(ranking.cost_to_target(one, criterion, target), one) for one in field.finished]
  # A contender reaches the target if all its seeds do.
  reached = [(cost, one) for cost, one in costs if cost.seeds == len(one.runs)]
  source = ""
  if criterion.target is None:
    whose = (
      f"the best contender with {criterion.baseline}" if criterion.baseline else "the best one"
    )
    words = wording.margin(criterion, target)
    source = f", {words} worse than the score of {whose}"
  text = f"The target is {criterion.form.format(target)}{source}"
  if not reached:
    yield f"{text}; no contender reached it with all its seeds."
    return
  least = min(cost.bytes for cost, _ in reached)
  # Of those that need about the same, the one with the best score.
  cost, cheapest = next(one for one in reached if (1 - ranking.SAME_BYTES) * one[0].bytes <= least)
  spent = f"{human_bytes(round(cost.bytes))} in {cost.rounds:,.0f} rounds"
  yield (
    f"{text}; {len(reached)} of {len(costs)} contenders reached it with all their seeds, "
    f"{quoted(cheapest)} with the fewest bytes: {spent}."
  )
