"""The result of a run, and its summary for ``summary.json``."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_norm.evaluation.config import EvaluationConfig
from fedjax_norm.evaluation.measures import MEASURES, headline, measures_of
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.typing import Variables

VALIDATION = "val_"
"""Prefix of the columns that are measured on the validation examples."""

# Prefixes of the columns for validation, several clients and the members of an ensemble.
_GROUPS = (VALIDATION, "clients_", "unseen_", "models_", "personal_", "member")
_COMPARED = ("clients_top1", "clients_top1_min", "unseen_top1", "unseen_top1_min")


class Outcome(NamedTuple):
  """The result of a run.

  Attributes:
    variables: the global model after the last round, as host arrays.
    clients: the client states after the last round.
    rows: one row of ``metrics.csv`` per evaluation.
    frozen_at: the round of FixBN's freeze; None without a freeze.
    client_accuracies: client id -> accuracy on that client's test examples or, if the data does not
      name them, on all weighted by its label shares; empty without ``evaluate_clients``.
    diagnostics: rows of ``diagnostics.csv`` of all evaluations; empty without ``diagnostics``.
    details: content of ``evaluation.json``; empty unless the task is classification.
  """

  variables: Variables
  clients: ClientStore
  rows: list[dict[str, Any]]
  frozen_at: int | None
  client_accuracies: dict[int, float]
  diagnostics: list[dict[str, Any]]
  details: dict[str, Any]


def best_index(rows: Sequence[dict[str, Any]]) -> int | None:
  """Returns the index of the first row with the best validation value of the compared measure.

  None without validation, or if the measure is nan in all ``rows`` of ``metrics.csv``.
  """
  columns = [name.removeprefix(VALIDATION) for name in rows[-1] if name.startswith(VALIDATION)]
  if not columns:
    return None
  measure = headline(columns)
  values = np.array([row[VALIDATION + measure] for row in rows])
  if np.isnan(values).all():
    return None
  return int(np.nanargmin(values) if measure == "loss" else np.nanargmax(values))


def summary(outcome: Outcome, average_last: int = EvaluationConfig.average_last) -> dict[str, Any]:
  """Returns the results of a run, as in ``summary.json``.

  Besides the last measures and the total costs, these are ``mean_...``, the mean over the last
  ``average_last`` evaluations, and with validation ``best_...``, the values in ``best_round``.
  """
  last, latest = outcome.rows[-1], outcome.rows[-average_last:]
  compared = [*measures_of(last), *(n for n in _COMPARED if n in last)]
  means = {f"mean_{name}": float(np.mean([row[name] for row in latest])) for name in compared}
  best: dict[str, Any] = {}
  if (index := best_index(outcome.rows)) is not None:
    row = outcome.rows[index]
    best = {"best_round": row["round"], **{f"best_{name}": row[name] for name in compared}}
  names = ["loss", *MEASURES, "mse", *(name for name in last if name.startswith("iou_"))]
  names += ["threshold", "verification_error", "bytes_up", "bytes_down", "round_trips", "seconds"]
  names += ["simulated_seconds", "staleness_mean", "staleness_max", "theta", "accuracy_loss"]
  names += ["client_flops", "server_flops", "relay_flops", "relay_bytes", "reconstruction"]
  return {
    "rounds": last["round"],
    **{name: last[name] for name in names if name in last and not np.isnan(last[name])},
    **{n: last[n] for n in last if n.startswith(_GROUPS) and not np.isnan(last[n])},
    "average_last": len(latest),
    **{name: value for name, value in {**means, **best}.items() if not np.isnan(value)},
    **({"frozen_at": outcome.frozen_at} if outcome.frozen_at is not None else {}),
  }
