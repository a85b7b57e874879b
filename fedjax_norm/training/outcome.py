"""The result of a run, and its summary for ``summary.json``."""

from typing import Any, NamedTuple

import numpy as np

from fedjax_norm.evaluation.measures import MEASURES
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.typing import Variables

# Prefixes of the columns for several clients' models and for the members of an ensemble.
_GROUPS = ("clients_", "models_", "personal_", "member")


class Outcome(NamedTuple):
  """The result of a run.

  Attributes:
    variables: the global model after the last round, as host arrays.
    clients: the client states after the last round.
    rows: one row of ``metrics.csv`` per evaluation.
    frozen_at: the round of FixBN's freeze; None without a freeze.
    client_accuracies: client id -> accuracy on test examples weighted by that client's label
      shares; empty without ``evaluate_clients``.
    diagnostics: rows of ``diagnostics.csv`` of all evaluations; empty without ``diagnostics``.
  """

  variables: Variables
  clients: ClientStore
  rows: list[dict[str, Any]]
  frozen_at: int | None
  client_accuracies: dict[int, float]
  diagnostics: list[dict[str, Any]]


def summary(outcome: Outcome) -> dict[str, Any]:
  """Returns the last measures and the total costs of a run, as in ``summary.json``."""
  last = outcome.rows[-1]
  names = ["loss", *MEASURES, "mse", *(name for name in last if name.startswith("iou_"))]
  names += ["threshold", "verification_error", "bytes_up", "bytes_down", "round_trips", "seconds"]
  names += ["simulated_seconds", "staleness_mean", "staleness_max", "theta", "accuracy_loss"]
  names += ["client_flops", "server_flops", "relay_flops", "relay_bytes", "reconstruction"]
  return {
    "rounds": last["round"],
    **{name: last[name] for name in names if name in last and not np.isnan(last[name])},
    **{name: last[name] for name in last if name.startswith(_GROUPS)},
    **({"frozen_at": outcome.frozen_at} if outcome.frozen_at is not None else {}),
  }
