"""What finished runs recorded of the differences between clients: the data of paper 004's figures.

``training/diagnostics_recorder.py`` lists the quantities of ``--diagnostics``. The test accuracy,
and the accuracy that models lose on other clients' data (``--skewscout``), are in ``metrics.csv``.
"""

from collections import defaultdict

import numpy as np

from fedjax_norm.evaluation.measures import headline
from fedjax_norm.study.contender import Contender, SeedRun
from fedjax_norm.study.statistics import estimate
from fedjax_norm.training.storage.csv_rows import Row, read_rows
from fedjax_norm.training.storage.run_folder import DIAGNOSTICS

# The first ones are of the last evaluation: figures 4 and 21. The others are curves: figures 22 and
# 23, two numbers in appendix G, and the gradients of paper 002, of each layer.
_LAST = ("mean_divergence", "variance_divergence", "accuracy_on_blocks")
_CURVES = (
  "residual_update_delta", "local_update_delta", "weight_difference", "neuron_difference",
  "gradient_deviation",
)  # fmt: skip


def by_quantity(contender: Contender, epoch: int | None = None) -> dict[str, list[Row]]:
  """Returns quantity -> its rows, each with the mean and the standard deviation over the seeds.

  The columns are ``round``, ``images`` (training images that all clients have seen), ``epoch`` (if
  one has ``epoch`` images), ``place`` (a layer and its channel, or a model and classes), ``value``
  and ``std`` (nan with one seed). Rows that a seed lacks are left out.

  Raises:
    UserError: the ``diagnostics.csv`` of a run is damaged.
  """
  found: dict[str, dict[tuple[int, str], list[float]]] = defaultdict(lambda: defaultdict(list))
  for run in contender.runs:
    for quantity, at, value in _recorded(run):
      found[quantity][at].append(value)
  rows = contender.runs[0].rows
  totals = np.cumsum([row["examples"] for row in rows]).tolist()
  seen = {row["round"]: total for row, total in zip(rows, totals, strict=True)}
  result: dict[str, list[Row]] = {}
  for quantity, places in found.items():
    shared = {at: of for at, of in places.items() if len(of) == len(contender.runs)}
    last = max((round_ for round_, _ in shared), default=0)
    for (round_, place), values in shared.items():
      if quantity not in _LAST or round_ == last:
        row: Row = {"round": round_, "images": seen[round_]}
        row |= {"epoch": row["images"] / epoch} if epoch else {}
        with np.errstate(invalid="ignore"):  # a divergence can be infinite
          mean, std, _ = estimate(values)
        result.setdefault(quantity, []).append(row | {"place": place, "value": mean, "std": std})
  return result


def _recorded(run: SeedRun) -> list[tuple[str, tuple[int, str], float]]:
  """Returns (quantity, (round, place), value) of everything that a run recorded."""
  measured = [
    (name, (row["round"], ""), float(row[name]))
    for row in run.rows
    for name in (headline(row), "accuracy_loss")
    if np.isfinite(row.get(name, np.nan))  # no loss was measured before the first models traveled
  ]
  return measured + [
    (row["quantity"], (row["round"], str(row["place"])), float(row["value"]))
    for row in read_rows(run.path / DIAGNOSTICS)[0]
    if row["quantity"] in (*_LAST, *_CURVES)
  ]
