"""Names and number formats of the test measures of all kinds of tasks."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple


class Measure(NamedTuple):
  """A test measure, which is a column of ``metrics.csv``.

  Attributes:
    title: name of the measure in printed texts and plots.
    form: format specification of its value.
    best_is_one: whether its best value is 1, so that plots draw it beside accuracies.
    main: whether learning curves and tables over seeds show it, which have room for few measures.
  """

  title: str
  form: str = ".2%"
  best_is_one: bool = True
  main: bool = True

  def format(self, value: float) -> str:
    """Returns the value as text."""
    return format(value, self.form)


MEASURES: Mapping[str, Measure] = MappingProxyType(
  {
    "top1": Measure("top-1"),
    "top5": Measure("top-5"),
    "balanced_accuracy": Measure("balanced accuracy"),
    "macro_f1": Measure("macro F1", main=False),
    "auroc": Measure("AUROC", main=False),
    "r2": Measure("R²", ".4f"),
    "rmse": Measure("rmse", ".4g", best_is_one=False),
    "mae": Measure("mae", ".4g", best_is_one=False),
    "mean_iou": Measure("mean IoU"),
    "pixel_accuracy": Measure("pixels right"),
  }
)
"""Measures by column name; models are compared by the first measure that their task has."""


_FEW_CLASSES = 5  # the top 5 of so few classes are all of them


def measures_of(columns: Collection[str]) -> dict[str, Measure]:
  """Returns the measures among the columns of a row or a summary, the most important first.

  Verification, which has the column ``threshold``, measures pairs and has no top-5. A user-defined
  objective without ``correct`` has only the test loss.
  """
  if "threshold" in columns:
    return {"top1": Measure("pairs right")}
  measures = {name: measure for name, measure in MEASURES.items() if name in columns}
  if measures or "loss" not in columns:
    return measures
  return {"loss": Measure("test loss", ".4g", best_is_one=False)}


def compared(columns: Collection[str], classes: int) -> dict[str, Measure]:
  """Returns the measures that tables show: with few classes, top-5 says nothing.

  ``classes`` is the number of classes; 0 if it is unknown.
  """
  few = 0 < classes <= _FEW_CLASSES
  return {n: m for n, m in measures_of(columns).items() if not (few and n == "top5")}


def headline(columns: Collection[str]) -> str:
  """Returns the column by which models are compared; higher is better, except for a loss."""
  return next(iter(measures_of(columns)))
