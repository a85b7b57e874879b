"""Runs that belong together, each in a folder of its own, and what they ended with."""

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
  """What a run ended with.

  Attributes:
    summary: as in ``summary.json``; None if it diverged.
    rows: its evaluations.
    tested: images that its accuracy is a mean over; 0 if it is one over pairs of them.
    example_flops: () -> the operations of training its whole model on one example; they take a
      while to count.
  """

  summary: dict[str, Any] | None
  rows: list[Row]
  tested: int
  example_flops: Callable[[], float] = lambda: math.nan

  def percent(self, name: str) -> float:
    """An accuracy in percent, NaN if the run diverged or does not measure it."""
    return 100 * (self.summary or {}).get(name, math.nan)

  @property
  def sent(self) -> float:
    """Bytes in both directions of the whole run, NaN if it diverged."""
    summary = self.summary
    return float(summary["bytes_up"] + summary["bytes_down"]) if summary else math.nan


Results = Mapping[str, Result]
"""Of runs, by their names."""


def run_cell(name: str, config: Any, source: Source, path: Path, make: Make = train.make) -> Result:
  """Runs one, goes on with it, or reads what it ended with.

  Args:
    name: what it is called where it diverges.
    config: its flags.
    source: the data they name.
    path: of its folder.
    make: makes its program.

  Raises:
    UserError: the folder holds another run.
  """
  settled, task = train.prepare(config, source)
  if not (path / "summary.json").exists():
    program = make(task, settled)
    try:
      with contextlib.redirect_stdout(io.StringIO()):  # a line a run is enough
        train.run_seed(settled, task, program, path)
    except DivergedError as error:
      print(f"{name}: {error}", file=sys.stderr)
  with train.open_folder(path, settled) as folder:
    tested = 0 if config.task == "verification" else len(source.test.labels)
    rows = folder.rows()

    @functools.cache
    def example_flops() -> float:
      model, shape, size = task.model, task.image_shape, config.batch_size
      return step_flops(model, shape, batch_size=size, input_gradient=False).training / size

    return Result(folder.read_summary(), rows, tested, example_flops)


def load_sources(configs: Mapping[str, Config]) -> dict[str, Source]:
  """The data of each run, by its name; what several have in common is read once.

  Raises:
    UserError: some of it cannot be read.
  """
  sources: dict[Any, Source] = {}
  named = {}
  for name, config in configs.items():
    data: Any = config.task, *(getattr(config, one.name) for one in options.of(DataConfig))
    if config.train_share is not None:
      data = *data, config.seed
    if data not in sources:
      sources[data] = train.load(config)
    named[name] = sources[data]
  return named
