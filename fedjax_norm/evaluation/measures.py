"""What a run's test measures are called and how they are written, whatever its task."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple


class Measure(NamedTuple):
  """One of the test columns of a row.

  Attributes:
    title: as it is told.
    form: how its value is written.
    best_is_one: whether 1 is the best that it can be, so that it is drawn beside accuracies.
  """

  title: str
  form: str = ".2%"
  best_is_one: bool = True

  def format(self, value: float) -> str:
    """The value as it is written."""
    return format(value, self.form)


MEASURES: Mapping[str, Measure] = MappingProxyType(
  {
    "top1": Measure("top-1"),
    "top5": Measure("top-5"),
    "r2": Measure("R²", ".4f"),
    "rmse": Measure("rmse", ".4g", best_is_one=False),
    "mae": Measure("mae", ".4g", best_is_one=False),
    "mean_iou": Measure("mean IoU"),
    "pixel_accuracy": Measure("pixels right"),
  }
)
"""By column; of a task's, the first is what its models are compared by."""


def measures_of(columns: Collection[str]) -> dict[str, Measure]:
  """The measures that a row or a summary has, the most important first.

  Those of verification, which has a ``threshold``, are of pairs and know no five first guesses.
  An objective that calls nothing right has the test loss alone.
  """
  if "threshold" in columns:
    return {"top1": Measure("pairs told right")}
  found = {name: measure for name, measure in MEASURES.items() if name in columns}
  if found or "loss" not in columns:
    return found
  return {"loss": Measure("test loss", ".4g", best_is_one=False)}


def headline(columns: Collection[str]) -> str:
  """The column by which models are compared; more is better, but of a loss."""
  return next(iter(measures_of(columns)))
