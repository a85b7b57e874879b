"""Further facts about the best contender of a setting: its model, its clients, its costs."""

import math
import shlex
from collections.abc import Iterator

from fedjax_norm.data.names import join_first
from fedjax_norm.study import ranking
from fedjax_norm.study.advice import wording
from fedjax_norm.study.advice.field import Field
from fedjax_norm.study.advice.wording import quoted
from fedjax_norm.study.contender import Contender
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


def client_accuracies(contender: Contender, unseen: bool = False) -> dict[str, float]:
  """Returns name of a client -> its accuracy after the last round, as mean over the seeds.

  Only clients with a name of their own are listed; the numbered clients of an artificial partition
  hold other examples with every seed.
  """
  found: dict[str, list[float]] = {}
  for run in contender.runs:
    for client in (run.evaluation or {}).get("clients", ()):
      if client["name"] is not None and client["unseen"] == unseen and client["top1"] is not None:
        found.setdefault(client["name"], []).append(client["top1"])
  return {name: estimate(values).mean for name, values in found.items()}


def _model(field: Field) -> Iterator[str]:
  best = field.finished[0]
  if best.single_model:
    yield f"{quoted(best)} yields one model to serve to all clients."
    return
  yield f"{quoted(best)} yields a model for each client, not one model to serve."
  other = next((one for one in field.finished if one.single_model), None)
  if other:
    yield f"With one model to serve, {quoted(other)} is best: {field.lead_text(best, other)}."


def _clients(field: Field) -> Iterator[str]:
  best = field.finished[0]
  named = client_accuracies(best)
  if len(named) > 1:
    worst = min(named, key=lambda name: (named[name], name))
    mean = estimate(named.values()).mean
    yield (
      f"After the last round of {quoted(best)}, the worst client is {worst} with "
      f"{named[worst]:.2%}; the mean over the clients is {mean:.2%}."
    )
    return
  mean, least = (ranking.column(best, f"clients_top1{end}").mean for end in ("", "_min"))
  if math.isfinite(least):
    yield (
      f"After the last round of {quoted(best)}, the worst client has {least:.2%}; the mean over "
      f"the clients is {mean:.2%}."
    )


def _unseen(field: Field) -> Iterator[str]:
  best = field.finished[0]
  mean, least = (ranking.column(best, f"unseen_top1{end}").mean for end in ("", "_min"))
  if math.isfinite(mean):
    yield (
      f"On clients that took no part in training, it has {mean:.2%} on average and {least:.2%} on "
      f"the worst of them{_listed(client_accuracies(best, unseen=True))}."
    )
  held_out = [tuple(client_accuracies(best._replace(runs=(run,)), True)) for run in best.runs]
  if len({frozenset(names) for names in held_out}) > 1:
    option = shlex.quote(f"--unseen_clients={','.join(held_out[0])}")
    yield (
      "The seeds held out different clients, so that the spread over seeds is mostly that of the "
      f"clients; naming them, for instance {option}, holds out the same with every seed."
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
  reached = [
    (cost.bytes, one.name, cost, one) for cost, one in costs if cost.seeds == len(one.runs)
  ]
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
  _, _, cost, cheapest = min(reached, key=lambda found: found[:2])
  spent = f"{human_bytes(round(cost.bytes))} in {cost.rounds:,.0f} rounds"
  yield (
    f"{text}; {len(reached)} of {len(costs)} contenders reached it with all their seeds, "
    f"{quoted(cheapest)} with the fewest bytes: {spent}."
  )
