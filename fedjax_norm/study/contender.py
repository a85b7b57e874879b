"""The contenders of a study or a comparison: what was run, and with what result."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from fedjax_norm.training.storage.csv_rows import Row

State = Literal["done", "pending", "diverged", "failed", "impossible"]
"""Whether a contender has results; ``impossible`` means that its options contradict each other."""


class SeedRun(NamedTuple):
  """A finished run with one seed.

  Attributes:
    seed: seed of the run.
    path: folder of the run.
    rows: rows of ``metrics.csv``, one for each evaluation.
    summary: content of ``summary.json``.
    evaluation: content of ``evaluation.json``; None if the run has no such file.
    best_evaluation: content of ``evaluation_best.json``; None if the run has no such file.
  """

  seed: int
  path: Path
  rows: list[Row]
  summary: dict[str, Any]
  evaluation: dict[str, Any] | None = None
  best_evaluation: dict[str, Any] | None = None


class Trial(NamedTuple):
  """A run of the search for a learning rate.

  Attributes:
    lr: learning rate.
    steps: number of local steps of each client.
    value: score on the validation examples; None if the run diverged.
    reason: why there is no value, as one sentence; None if there is one.
    examples: number of validation examples; None if it is unknown.
  """

  lr: float
  steps: int
  value: float | None
  reason: str | None = None
  examples: int | None = None


class Tuning(NamedTuple):
  """How the learning rate of a contender was chosen.

  Attributes:
    lr: the chosen learning rate.
    runner_up: the second best learning rate; None if no other one reached a finite loss.
    edge: ``lowest`` or ``highest`` if the chosen rate is the last one of the searched grid at that
      end, so that a better rate may lie beyond; None otherwise.
    score: how a run's validation values become one number: ``best``, ``last`` or ``mean``.
    measure: the measure, such as ``top1``.
    trials: all runs of the search, in order.
  """

  lr: float
  runner_up: float | None
  edge: Literal["lowest", "highest"] | None
  score: str
  measure: str
  trials: tuple[Trial, ...]


class Contender(NamedTuple):
  """One norm with one algorithm and one number of local steps, and its runs.

  Attributes:
    name: label that is unique within a setting, such as ``gn, fedavg, 10 local steps``.
    setting: label of the partition; contenders are compared only within a setting.
    options: the options by which contenders differ: name -> value, for example ``norm``,
      ``algorithm`` and ``local_steps``.
    runs: the finished runs, in the order of their seeds.
    state: whether there are results.
    reason: why there are no (or not all) results, as one sentence; None if there are.
    tuning: how the learning rate was chosen; None if it was given.
    command: the command that repeats the runs.
    single_model: whether the method yields one model for all clients (``one model to serve``).
    path: folder of the runs; None if nothing was run.
  """

  name: str
  setting: str
  options: dict[str, Any]
  runs: tuple[SeedRun, ...]
  state: State
  reason: str | None = None
  tuning: Tuning | None = None
  command: str = ""
  single_model: bool = True
  path: Path | None = None
