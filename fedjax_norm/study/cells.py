"""Starts or resumes runs, each in a separate folder, and reads the results."""

import contextlib
import functools
import io
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_norm import options
from fedjax_norm.cli import train
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.train import Make
from fedjax_norm.data.examples import Source
from fedjax_norm.data.sources.registry import DataConfig
from fedjax_norm.errors import DivergedError
from fedjax_norm.models.flops import step_flops
from fedjax_norm.training.storage.csv_rows import Row


class Result(NamedTuple):
  """The result of a run.

  Attributes:
    summary: content of ``summary.json``; None if the run diverged.
    rows: rows of ``metrics.csv``.
    num_tested: number of test images; 0 if the accuracy is measured on pairs of images.
    example_flops: function that returns the floating-point operations (FLOPs) of training the
      whole model on one example; counting them takes a while.
  """

  summary: dict[str, Any] | None
  rows: list[Row]
  num_tested: int
  example_flops: Callable[[], float] = lambda: math.nan

  def percent(self, name: str) -> float:
    """Returns the final accuracy ``name`` in percent; NaN if the run diverged or lacks it."""
    return 100 * (self.summary or {}).get(name, math.nan)

  @property
  def sent(self) -> float:
    """Bytes that all clients of the run sent and received; NaN if the run diverged."""
    summary = self.summary
    return float(summary["bytes_up"] + summary["bytes_down"]) if summary else math.nan


Results = Mapping[str, Result]
"""Name of a run -> result of the run."""


def run_cell(name: str, config: Any, source: Source, path: Path, make: Make = train.make) -> Result:
  """Starts or resumes a run unless it has finished, and returns its result.

  Args:
    name: name of the run, printed if it diverges.
    config: the run's options.
    source: the data of the run.
    path: the run's folder.
    make: function that builds the run's program from its task and its options.

  Raises:
    UserError: the folder contains a run with other options.
  """
  resolved, task = train.prepare(config, source)
  if not (path / "summary.json").exists():
    program = make(task, resolved)
    try:
      with contextlib.redirect_stdout(io.StringIO()):  # the caller prints one line per run
        train.run_seed(resolved, task, program, path)
    except DivergedError as error:
      print(f"{name}: {error}", file=sys.stderr)
  with train.open_folder(path, resolved, continues=False) as folder:
    num_tested = 0 if config.task == "verification" else len(task.source.test.labels)
    rows = folder.rows()

    @functools.cache
    def example_flops() -> float:
      model, shape, size = task.model, task.image_shape, config.batch_size
      return step_flops(model, shape, batch_size=size, input_gradient=False).training / size

    return Result(folder.read_summary(), rows, num_tested, example_flops)


class Sources:
  """Loads the data of runs; runs that share their data share it in memory."""

  def __init__(self) -> None:
    self._loaded: dict[Any, Source] = {}

  def of(self, config: Any) -> Source:
    """Returns the data of a run.

    Raises:
      UserError: the data cannot be read.
    """
    key: Any = config.task, *(getattr(config, field.name) for field in options.of(DataConfig))
    if config.train_share is not None:
      key = *key, config.seed
    if key not in self._loaded:
      self._loaded[key] = train.load(config)
    return self._loaded[key]


def load_sources(configs: Mapping[str, Config]) -> dict[str, Source]:
  """Returns name of a run -> data of the run (see :class:`Sources`)."""
  sources = Sources()
  return {name: sources.of(config) for name, config in configs.items()}
