"""The answer of a study, written from its folder at any time."""

from pathlib import Path

from filelock import FileLock

from fedjax_norm.study import plan_text, report, results, table
from fedjax_norm.study.plan import read_plan
from fedjax_norm.study.recommendation import recommend

LOCK = "study.lock"
"""File by which one process at a time writes a study's plan or its answer."""


def write(folder: Path, target: float | None) -> str:
  """Writes the results and the report of a study into its folder.

  Args:
    folder: folder of the study.
    target: value of the measure to which costs are counted; None to derive it from the results.

  Returns:
    The ranked tables, the recommendation in words and the path of the report, as text.
  """
  contenders = results.read_study(folder)
  recommendation = recommend(contenders, results.study_criterion(folder))
  how = plan_text.how(read_plan(folder))
  title = f"Which norm, which algorithm, how much communication? {how['data']}"
  with FileLock(folder / LOCK):
    results.write(folder, contenders, recommendation)
    path = report.write(folder, contenders, recommendation, title, how)
  return f"{table.render_answer(contenders, recommendation)}\n\nreport: {path}"
