"""The report of a study or a comparison: a page that opens without a network, and its pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedjax_norm.study.contender import Contender
from fedjax_norm.study.recommendation import Recommendation

REPORT = "report.html"


def write(
  folder: Path,
  contenders: Sequence[Contender],
  recommendation: Recommendation,
  title: str,
  how: Mapping[str, str],
) -> Path:
  """Writes ``report.html``, which contains its pictures, and each picture as a PNG file.

  Args:
    folder: an existing folder; files of an earlier report are replaced.
    contenders: the contenders of all settings.
    recommendation: the answer in words, and how contenders are ranked.
    title: title of the page.
    how: how the runs were made, as name -> text, such as the effort and the search for the rates.

  Returns:
    The path of ``report.html``.
  """
  raise NotImplementedError
