"""The answer of a study, written from its folder at any time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from fedjax_norm.study.advice.recommendation import Recommendation, recommend
from fedjax_norm.study.contender import Contender
from fedjax_norm.study.planning import plan_text
from fedjax_norm.study.planning.plan import LOCK, read_plan
from fedjax_norm.study.report import page
from fedjax_norm.study.results import study_files, table


class Material(NamedTuple):
  """What an answer is written from.

  Attributes:
    contenders: the contenders of all settings.
    recommendation: the answer in words, and by what contenders are ranked.
    title: title of the report.
    how: how the contenders were trained: name -> text.
  """

  contenders: Sequence[Contender]
  recommendation: Recommendation
  title: str
  how: Mapping[str, str]


def read(folder: Path, target: float | None) -> Material:
  """Reads a study's results.

  Args:
    folder: folder of the study.
    target: value of the measure to which costs are counted; None to derive it from the results.
  """
  contenders = study_files.read_study(folder)
  criterion = study_files.titled(study_files.study_criterion(folder, target), contenders)
  recommendation = recommend(contenders, criterion, folder)
  how = plan_text.how(read_plan(folder))
  title = f"Which norm, which algorithm, how much communication? {how['data']}"
  return Material(contenders, recommendation, title, how)


def write(folder: Path, target: float | None) -> str:
  """Writes the results and the report of a study into its folder, and returns the answer as text.

  The arguments are those of :func:`read`, the text that of :func:`write_to`.
  """
  with FileLock(folder / LOCK):
    return write_to(folder, read(folder, target))


def write_to(folder: Path, found: Material) -> str:
  """Writes the results and the report into a folder.

  Returns:
    The ranked tables, the recommendation in words and the path of the report, as text.
  """
  contenders, recommendation, title, how = found
  study_files.write(folder, contenders, recommendation)
  path = page.write(folder, contenders, recommendation, title, how)
  return f"{table.render_answer(contenders, recommendation)}\n\nreport: {path}"
