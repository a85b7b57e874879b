"""What a run ends with, and the figures that are told of it."""

from typing import Any, NamedTuple

import numpy as np

from fedjax_norm.evaluation.measures import MEASURES
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.typing import Variables

# How the columns of several models, and of an ensemble's members, begin.
_GROUPS = ("clients_", "models_", "personal_", "member")


class Outcome(NamedTuple):
  """What a run ends with.

  Attributes:
    variables: the global model, host arrays.
    clients: the clients' lasting states.
    rows: one a evaluation, as in ``metrics.csv``.
    frozen_at: the round of the freeze, or None.
    client_accuracies: the accuracy on its own mix of labels of each client that was evaluated, by
      its id; empty unless asked for.
    diagnostics: the rows of all evaluations, as in ``diagnostics.csv``; empty unless asked for.
  """

  variables: Variables
  clients: ClientStore
  rows: list[dict[str, Any]]
  frozen_at: int | None
  client_accuracies: dict[int, float]
  diagnostics: list[dict[str, Any]]


def summary(outcome: Outcome) -> dict[str, Any]:
  """The figures of a run's end, as in ``summary.json``."""
  last = outcome.rows[-1]
  names = ["loss", *MEASURES, "mse", *(name for name in last if name.startswith("iou_"))]
  names += ["threshold", "verification_error"]
  names += ["bytes_up", "bytes_down", "round_trips", "seconds"]
  names += ["simulated_seconds", "staleness_mean", "staleness_max", "theta", "accuracy_loss"]
  names += ["client_flops", "server_flops", "relay_flops", "relay_bytes", "reconstruction"]
  return {
    "rounds": last["round"],
    **{name: last[name] for name in names if name in last and not np.isnan(last[name])},
    **{name: last[name] for name in last if name.startswith(_GROUPS)},
    **({"frozen_at": outcome.frozen_at} if outcome.frozen_at is not None else {}),
  }
