"""The rows of a table of predictions, and how many predictions are right."""

from collections.abc import Sequence

import numpy as np

from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.data.names import join_first
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.measures import MEASURES
from fedjax_norm.objectives import IGNORED
from fedjax_norm.training.finished_run import FinishedRun
from fedjax_norm.training.storage.csv_rows import Row

_DECIMALS = 6


def rows(
  run: FinishedRun, head: list[Row], outputs: np.ndarray, targets: np.ndarray | None
) -> list[Row]:
  """Returns a row for each of N images.

  Args:
    run: the run that made the predictions.
    head: N rows of the first columns, such as the image's path.
    outputs: [N, ...] outputs of the model.
    targets: [N, ...] true classes or numbers, numbered as the run's outputs; None if unknown.
  """
  names, task, predictions = run.class_names, run.serving.task, run.interpret(outputs)
  if task == "classification":
    best = outputs.argmax(-1)
    parts = [
      [{"class": names[k]} for k in targets] if targets is not None else [],
      [
        {"predicted": names[k], "probability": _rounded(p[k])}
        for k, p in zip(best, predictions, strict=True)
      ],
      _columns("p", names, predictions),
    ]
  elif task == "regression":
    parts = [
      _columns("true", names, targets) if targets is not None else [],
      _columns("predicted", names, predictions),
    ]
  else:
    parts = [
      _columns("true_share", names, _shares(targets, len(names))) if targets is not None else [],
      _columns("share", names, _shares(predictions, len(names))),
    ]
  result = head
  for part in parts:
    result = [one | more for one, more in zip(result, part, strict=True)] if part else result
  return result


def score(run: FinishedRun, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, int]:
  """Returns (sum, number of terms) of what :func:`describe` averages; arguments as of ``rows``."""
  task = run.serving.task
  if task == "classification":
    # A tie counts as an error, as in the tests of a run.
    at_label = np.take_along_axis(outputs, targets[:, None], -1)
    return float(((at_label > outputs).sum(-1) == outputs.shape[-1] - 1).sum()), len(targets)
  predictions = run.interpret(outputs)
  if task == "regression":
    return float(np.square(predictions - targets).sum()), targets.size
  known = targets != IGNORED
  return float((predictions == targets)[known].sum()), int(known.sum())


def describe(run: FinishedRun, total: float, count: int) -> str:
  """Returns the test measure of all images as text, such as ``top-1 93.33%``."""
  task, mean = run.serving.task, total / max(count, 1)
  name = {"classification": "top1", "regression": "rmse"}.get(task, "pixel_accuracy")
  value = mean**0.5 if task == "regression" else mean
  return f"{MEASURES[name].title} {MEASURES[name].format(value)}"


def targets_of(run: FinishedRun, source: Source, examples: Examples) -> np.ndarray:
  """Returns the targets of examples, [N, ...], with the numbers of the run's classes.

  Classes are matched by name.

  Raises:
    UserError: a class of the examples, or a number of a regression, is none of the run.
  """
  names, task = run.class_names, run.serving.task
  given = source.target_names or source.class_names
  if task == "regression":
    if given != names:
      raise UserError(
        f"the data has the numbers {join_first(given)}, but the run predicts {join_first(names)}; "
        "give other --data, or --images."
      )
    assert examples.targets is not None
    return examples.targets
  targets = examples.labels if task == "classification" else examples.targets
  assert targets is not None
  present = [k for k in np.unique(targets) if task == "classification" or k != IGNORED]
  if unknown := [given[k] for k in present if given[k] not in names]:
    raise UserError(
      f"the data has the class {unknown[0]!r}, which the run does not know (its classes are "
      f"{join_first(names)}); give other --data, or --images."
    )
  numbers = np.full(max(IGNORED, len(given)) + 1, IGNORED, np.int32)
  numbers[present] = [names.index(given[k]) for k in present]
  return numbers[targets]


def _columns(prefix: str, names: Sequence[str], values: np.ndarray) -> list[Row]:
  """Returns a row {prefix_NAME: value} for each of [N, len(names)] values."""
  titles = [f"{prefix}_{name}" for name in names]
  return [dict(zip(titles, map(_rounded, row), strict=True)) for row in values]


def _shares(classes: np.ndarray, count: int) -> np.ndarray:
  """Returns the share of each of ``count`` classes in the pixels of each image, [N, count].

  Ignored pixels do not count.
  """
  pixels = np.stack([(classes == k).sum((1, 2)) for k in range(count)], 1)
  return pixels / np.maximum(pixels.sum(1, keepdims=True), 1)


def _rounded(value: float) -> float:
  return round(float(value), _DECIMALS)
