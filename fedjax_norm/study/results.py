"""Reads the contenders of a study or of runs that exist, and writes their results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedjax_norm.study.contender import Contender
from fedjax_norm.study.ranking import Criterion, Score
from fedjax_norm.study.recommendation import Recommendation


def read_study(folder: Path) -> list[Contender]:
  """Returns the contenders of a study; those without an outcome yet are pending."""
  raise NotImplementedError


def study_criterion(folder: Path, contenders: Sequence[Contender]) -> Criterion:
  """Returns by what the study's options rank its contenders."""
  raise NotImplementedError


def read_runs(paths: Sequence[str | Path]) -> list[Contender]:
  """Returns the finished runs in ``paths`` as contenders, named by the options that differ."""
  raise NotImplementedError


def runs_criterion(
  contenders: Sequence[Contender],
  measure: str | None = None,
  score: Score | None = None,
  target: float | None = None,
) -> Criterion:
  """Returns by what finished runs are ranked; a missing measure or score is chosen from them."""
  raise NotImplementedError


def as_rows(contenders: Sequence[Contender], criterion: Criterion) -> list[dict[str, Any]]:
  """Returns every number of each contender by name; the best of each setting comes first."""
  raise NotImplementedError


def write(folder: Path, contenders: Sequence[Contender], recommendation: Recommendation) -> None:
  """Writes ``results.csv`` and ``results.json``."""
  raise NotImplementedError
