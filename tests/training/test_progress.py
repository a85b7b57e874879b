"""Progress in a log file: a line for each evaluation."""

import re

from fedjax_norm.evaluation.measures import compared
from fedjax_norm.training.terminal.progress import Progress


def test_a_log_has_a_line_for_each_evaluation(capsys):
  with Progress(40, start=10) as progress:
    progress.update(20, 1.25, "top-1 60.00%", 1234.5)
    progress.update(40, 0.5, "top-1 86.94%", 1234.5)
  out, err = capsys.readouterr()
  assert not out
  assert re.fullmatch(
    r"round 20/40 00:0\d<00:0\d, loss 1.2500, top-1 60.00%, 1,234 examples/s\n"
    r"round 40/40 00:0\d<00:00, loss 0.5000, top-1 86.94%, 1,234 examples/s\n",
    err,
  )


def test_without_progress_there_is_no_line(capsys):
  with Progress(40, enabled=False) as progress:
    progress.update(20, 1.25, "top-1 60.00%", 1234.5)
  assert capsys.readouterr().err == ""


def test_top5_of_few_classes_is_not_shown():
  columns = ("top1", "top5", "balanced_accuracy")
  assert list(compared(columns, 5)) == ["top1", "balanced_accuracy"]
  assert list(compared(columns, 6)) == list(compared(columns, 0)) == list(columns)
