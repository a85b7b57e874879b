"""Loads the data of runs; runs that share their data share it in memory."""

from typing import Any

from fedjax_norm import options
from fedjax_norm.cli import train
from fedjax_norm.data.examples import Source
from fedjax_norm.data.sources.config import DataConfig


class Sources:
  """The data that was loaded so far."""

  def __init__(self) -> None:
    self._loaded: dict[Any, Source] = {}

  def of(self, config: Any) -> Source:
    """Returns the data of a run, with all training examples.

    Raises:
      UserError: the data cannot be read.
    """
    fields = (one.name for one in options.of(DataConfig) if one.name != "train_share")
    key = config.task, *(getattr(config, name) for name in fields)
    if key not in self._loaded:
      self._loaded[key] = train.load(config)
    return self._loaded[key]
