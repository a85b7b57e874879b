"""Binaries run inside the test's process, and what they printed."""

from typing import NamedTuple

import pytest
from absl import flags
from experiments_helpers import SMALL

from experiments import app, fedavg
from experiments.flags import Config, define


class Result(NamedTuple):
  code: int
  out: str
  err: str


@pytest.fixture
def fedavg_run(capsys, tmp_path, monkeypatch):
  """(*flags) -> Result of ``experiments.fedavg`` with ``SMALL`` and these flags."""
  monkeypatch.chdir(tmp_path)

  def run(*arguments: str) -> Result:
    values = flags.FlagValues()
    define(Config, values)
    try:
      rest = values(["fedavg", *SMALL, *arguments])[1:]
    except flags.Error as error:
      return Result(app._say(error, 2), *capsys.readouterr())
    return Result(app.execute(fedavg.main, Config, values, rest), *capsys.readouterr())

  return run
