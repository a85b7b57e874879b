"""A stand-in for the package ``wandb``, which records what it is called with."""

import importlib.machinery
import sys
from types import ModuleType
from typing import Any, NamedTuple


class Calls(NamedTuple):
  """The arguments of each ``wandb.init``, and by the ids of runs what they were sent."""

  started: list[dict[str, Any]]
  runs: dict[str, dict[Any, Any]]


class UsageError(Exception):
  """What W&B raises if nobody is logged in."""


class Run:
  """A run of W&B: the rows by their steps, the summary, and how it ended."""

  def __init__(self, sent: dict[Any, Any]):
    self.sent = self.summary = sent

  def log(self, row: dict[str, Any], step: int) -> None:
    assert step not in self.sent
    self.sent[step] = row

  def finish(self, exit_code: int) -> None:
    self.sent["finished"] = exit_code


def fails_at(number: int):
  """Returns a method ``log`` that fails at one step."""
  log = Run.log

  def fail(self, row, step):
    if step == number:
      raise ConnectionError("no network")
    log(self, row, step)

  return fail


def install(monkeypatch, calls: Calls | None = None) -> Calls:
  """Replaces the package by a stand-in that refuses the project ``forbidden``."""
  calls = calls or Calls([], {})

  def init(**arguments: Any) -> Run:
    calls.started.append(arguments)
    if arguments["project"] == "forbidden":
      raise UsageError("no key")
    return Run(calls.runs.setdefault(arguments["id"], {}))

  module = ModuleType("wandb")
  module.__spec__ = importlib.machinery.ModuleSpec("wandb", None, origin="here")
  module.init, module.Settings, module.errors = init, dict, ModuleType("wandb.errors")
  module.errors.UsageError = UsageError
  monkeypatch.setitem(sys.modules, "wandb", module)
  return calls
