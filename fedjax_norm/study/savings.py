"""How much communication is saved at equal accuracy (paper 004, sec. 7.3 and fig. 8), as data.

At a degree of skew there is a run of BSP, one of each theta of an algorithm, and one in which
SkewScout chooses theta. The Oracle is whichever theta sent least among those that kept BSP's
accuracy; it has to run all of them to know.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from fedjax_norm.cli import text_tables
from fedjax_norm.plots import bars
from fedjax_norm.study.cells import Result, Results
from fedjax_norm.training.terminal.tables import human_bytes


class Degree(NamedTuple):
  """The runs of one degree of skew, by their names in the results.

  Attributes:
    label: such as 20%.
    bsp: of the run of BSP.
    thetas: what a theta is called -> its run.
    scout: of SkewScout's.
  """

  label: str
  bsp: str
  thetas: Mapping[str, str]
  scout: str


class Saving(NamedTuple):
  """What was saved at one degree.

  Attributes:
    label: the degree's.
    accuracy: BSP's, in percent.
    best: what Oracle's theta is called; None where no theta keeps the accuracy.
    oracle: bytes of BSP by Oracle's; NaN where no theta keeps the accuracy.
    scout: bytes of BSP by SkewScout's; NaN where SkewScout does not keep the accuracy.
  """

  label: str
  accuracy: float
  best: str | None
  oracle: float
  scout: float

  @property
  def overhead(self) -> float:
    """What SkewScout sends by what Oracle sends."""
    return self.oracle / self.scout


def saved(bsp: Result, other: Result) -> float:
  """BSP's bytes by another run's; NaN if that sent nothing, and nobody learnt of the others."""
  return bsp.sent / other.sent if other.sent else math.nan


def keeps(bsp: Result, other: Result, tolerance: float) -> bool:
  """Whether a run's accuracy is at most so many points below BSP's; not if either diverged."""
  return other.percent("top1") >= bsp.percent("top1") - tolerance


def measure(degree: Degree, results: Results, tolerance: float) -> Saving:
  """What Oracle and SkewScout save at a degree.

  Args:
    degree: its runs.
    results: of them.
    tolerance: points of accuracy below BSP's that count as equal.
  """
  bsp, scout = results[degree.bsp], results[degree.scout]
  kept = {
    theta: saved(bsp, results[name])
    for theta, name in degree.thetas.items()
    if keeps(bsp, results[name], tolerance) and results[name].sent
  }
  best = max(kept, key=lambda theta: kept[theta], default=None)
  return Saving(
    degree.label,
    bsp.percent("top1"),
    best,
    kept[best] if best is not None else math.nan,
    saved(bsp, scout) if keeps(bsp, scout, tolerance) else math.nan,
  )


def render(degrees: Sequence[Degree], results: Results, tolerance: float) -> str:
  """The savings as a Markdown table, a line a degree."""
  rows = []
  for degree in degrees:
    found, bsp = measure(degree, results, tolerance), results[degree.bsp]
    best = "" if found.best is None else f" ({found.best})"
    figures = [_percent(bsp), _bytes(bsp), _times(found.oracle) + best]
    figures += [_percent(results[degree.scout]), _times(found.scout)]
    rows.append([degree.label, *figures, _times(found.overhead, "of Oracle", "-")])
  head = ["non-IID", "BSP, top-1", "sent", "Oracle", "SkewScout, top-1", "SkewScout"]
  return (
    f"Communication saved over BSP, of runs at most {tolerance:g} points below BSP's accuracy at "
    f"the same degree of skew:\n\n{text_tables.as_markdown([*head, 'SkewScout sends'], rows)}"
  )


def draw(degrees: Sequence[Degree], results: Results, tolerance: float, title: str) -> Figure:
  """Fig. 8: bars of what SkewScout and Oracle save, by degree; none where accuracy is lost."""
  found = [measure(degree, results, tolerance) for degree in degrees]
  series = {"SkewScout": [s.scout for s in found], "Oracle": [s.oracle for s in found]}
  return bars.bars_figure(
    [f"{s.label} non-IID" for s in found],
    series,
    title,
    "communication of BSP by that of the run",
    "{:.1f}x",
    "none",
  )


def as_csv(degrees: Sequence[Degree], results: Results, tolerance: float) -> str:
  """A line a run: what it sent, what that saves, and whether it keeps BSP's accuracy."""
  rows = []
  for degree in degrees:
    best, bsp = measure(degree, results, tolerance).best, results[degree.bsp]
    for run, name in {"BSP": degree.bsp, **degree.thetas, "SkewScout": degree.scout}.items():
      result = results[name]
      figures = [result.percent("top1"), result.sent, saved(bsp, result)]
      told = [figure if math.isfinite(figure) else "" for figure in figures]
      kept = int(keeps(bsp, result, tolerance))
      rows.append([degree.label, run, *told, kept, int(run == best), Path(name).name])
  head = ["non_iid", "run", "top1", "bytes", "saved", "kept", "oracle", "folder"]
  return text_tables.as_csv(head, rows)


def _percent(result: Result) -> str:
  value = result.percent("top1")
  return f"{value:.2f}" if math.isfinite(value) else "diverged"


def _bytes(result: Result) -> str:
  return human_bytes(int(result.sent)) if math.isfinite(result.sent) else "-"


def _times(value: float, of: str = "", otherwise: str = "none") -> str:
  return f"{value:.1f}x {of}".rstrip() if math.isfinite(value) else otherwise
