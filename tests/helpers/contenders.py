"""Planted contenders: outcomes of a study that no run has to be trained for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_norm.study.contender import Contender, SeedRun, State, Trial, Tuning

ROUNDS = (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def seed_run(
  seed: int,
  score: float,
  sent: int = 2_000_000,
  *,
  measure: str = "top1",
  flat: bool = True,
  clients: Mapping[str, float] | None = None,
  unseen: Mapping[str, float] | None = None,
  recalls: Mapping[str, float] | None = None,
  values: Mapping[str, Any] | None = None,
) -> SeedRun:
  """Returns a run whose last value of ``measure`` is ``score``, which is also its best.

  Args:
    seed: seed of the run.
    score: last value of the measure, on the test and on the validation examples.
    sent: bytes up and down at the end, together.
    measure: the headline measure.
    flat: whether the curve rises in the first third only; otherwise until the end.
    clients: name of a client -> its accuracy.
    unseen: name of a client that never trained -> its accuracy.
    recalls: name of a class -> its recall, of ten test examples each.
    values: further entries of the summary.
  """
  rows = []
  for i, number in enumerate(ROUNDS, 1):
    share = min(1, i / 3) if flat else i / len(ROUNDS)
    value, cost = score * share, sent * i // (2 * len(ROUNDS))
    row: dict[str, Any] = {"round": number, "loss": 2 - share, "train_loss": 1.9 - share}
    row |= {measure: value, f"val_{measure}": value, "examples": 100 * i}
    row |= {"bytes_up": cost, "bytes_down": cost, "round_trips": number, "seconds": 0.5 * i}
    rows.append(row)
  summary = {**rows[-1], "rounds": ROUNDS[-1], "no_better_than_guessing": False}
  del summary["round"]
  mean = float(np.mean([row[measure] for row in rows[-5:]]))
  summary |= {f"mean_{measure}": mean, f"best_{measure}": score, "best_round": ROUNDS[-1]}
  evaluation: dict[str, Any] = {"round": ROUNDS[-1], "classes": [], "clients": []}
  for name, group in (("clients", clients), ("unseen", unseen)):
    if group:
      worst, average = min(group.values()), float(np.mean(list(group.values())))
      for prefix in ("", "mean_", "best_"):
        summary |= {f"{prefix}{name}_top1": average, f"{prefix}{name}_top1_min": worst}
      evaluation["clients"] += [
        {"id": i, "name": client, "examples": 10, "top1": value, "unseen": name == "unseen"}
        for i, (client, value) in enumerate(group.items(), len(evaluation["clients"]))
      ]
  if recalls:
    counts = np.zeros((len(recalls), len(recalls)), int)
    for i, recall in enumerate(recalls.values()):
      counts[i, i] = round(10 * recall)
      counts[i, (i + 1) % len(recalls)] += 10 - counts[i, i]
    evaluation["confusion"] = counts.tolist()
    evaluation["classes"] = [
      {"name": n, "examples": 10, "recall": r, "precision": r, "f1": r, "auroc": None}
      for n, r in recalls.items()
    ]
  path = Path("runs") / "planted" / f"seed_{seed}"
  # The best round is the last one, so both evaluations are the same.
  return SeedRun(seed, path, rows, summary | dict(values or {}), evaluation, evaluation)


def contender(
  name: str,
  scores: Sequence[float],
  sent: int = 2_000_000,
  *,
  setting: str = "iid",
  options: Mapping[str, Any] | None = None,
  state: State = "done",
  reason: str | None = None,
  tuning: Tuning | None = None,
  single_model: bool = True,
  **run: Any,
) -> Contender:
  """Returns a contender with a run for each score, with the seeds 0, 1, ...

  The options follow from a name such as ``gn, fedavg, 10 local steps``, unless they are given.
  ``run`` are further arguments of :func:`seed_run`.
  """
  words = [word.strip() for word in name.split(",")]
  found: dict[str, Any] = dict(zip(("norm", "algorithm"), words, strict=False))
  if len(words) > 2:
    found["local_steps"] = int(words[2].split()[0])
  runs = tuple(seed_run(seed, score, sent, **run) for seed, score in enumerate(scores))
  command = f"python -m experiments.run --norm={words[0]} --seeds={len(scores)}"
  chosen = found if options is None else dict(options)
  return Contender(
    name, setting, chosen, runs, state, reason, tuning, command, single_model, Path("runs/planted")
  )


def tuning(
  values: Mapping[float, float | None], edge: Any = None, measure: str = "top1", steps: int = 25
) -> Tuning:
  """Returns the search that chose the rate with the best value; None is a rate that diverged."""
  trials = [
    Trial(lr, steps, value, "its loss became infinite" if value is None else None)
    for lr, value in values.items()
  ]
  ranked = sorted((v, lr) for lr, v in values.items() if v is not None)[::-1]
  (best, lr), *rest = ranked
  trials += [Trial(rate, 2 * steps, value) for value, rate in ranked[:2]]
  trials.append(Trial(lr, 4 * steps, best))
  return Tuning(lr, rest[0][1] if rest else None, edge, "best", measure, tuple(trials))
