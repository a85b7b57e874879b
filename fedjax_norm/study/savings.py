"""Communication saved in comparison with BSP at equal accuracy (paper 004, sec. 7.3, fig. 8).

Each degree of skew has a run of BSP, a run for each communication threshold theta of Gaia, FedAvg
or DGC, and a run in which SkewScout chooses theta. The Oracle is the run with a fixed theta that
sends the fewest bytes of those that keep BSP's accuracy. To find it, all runs are needed.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from fedjax_norm.cli import text_tables
from fedjax_norm.plots import bars
from fedjax_norm.training.terminal.tables import human_bytes


class Outcome(NamedTuple):
  """What is compared of a run.

  Attributes:
    top1: test accuracy in percent; NaN if the run diverged.
    sent: bytes that all clients sent and received; NaN if the run diverged.
  """

  top1: float
  sent: float


Outcomes = Mapping[str, Outcome]
"""Name of a run -> what is compared of it."""


class Degree(NamedTuple):
  """The names of the runs of one degree of skew.

  Attributes:
    label: the degree as text, for example 20%.
    bsp: name of BSP's run.
    thetas: theta as text -> name of the run with this theta.
    scout: name of SkewScout's run.
  """

  label: str
  bsp: str
  thetas: Mapping[str, str]
  scout: str


class Saving(NamedTuple):
  """The communication saved at one degree of skew.

  Attributes:
    label: the degree as text.
    accuracy: BSP's accuracy in percent.
    oracle_theta: the Oracle's theta as text; None if no theta keeps BSP's accuracy.
    oracle: BSP's bytes divided by the Oracle's; NaN if no theta keeps BSP's accuracy.
    scout: BSP's bytes divided by SkewScout's; NaN if SkewScout does not keep BSP's accuracy.
  """

  label: str
  accuracy: float
  oracle_theta: str | None
  oracle: float
  scout: float

  @property
  def overhead(self) -> float:
    """SkewScout's bytes divided by the Oracle's."""
    return self.oracle / self.scout


def saving_ratio(bsp: Outcome, run: Outcome) -> float:
  """Returns BSP's bytes divided by a run's; NaN if the run sent nothing or one diverged."""
  return bsp.sent / run.sent if run.sent else math.nan


def keeps_accuracy(bsp: Outcome, run: Outcome, tolerance: float) -> bool:
  """Returns whether a run's accuracy is at most ``tolerance`` points below BSP's; False for NaN."""
  return run.top1 >= bsp.top1 - tolerance


def measure(degree: Degree, results: Outcomes, tolerance: float) -> Saving:
  """Returns what the Oracle and SkewScout save at one degree of skew.

  A run at most ``tolerance`` points of accuracy below BSP's counts as equally accurate.
  """
  bsp, scout = results[degree.bsp], results[degree.scout]
  ratios = {
    theta: saving_ratio(bsp, results[name])
    for theta, name in degree.thetas.items()
    if keeps_accuracy(bsp, results[name], tolerance) and results[name].sent
  }
  best = max(ratios, key=lambda theta: ratios[theta], default=None)
  return Saving(
    degree.label,
    bsp.top1,
    best,
    ratios[best] if best is not None else math.nan,
    saving_ratio(bsp, scout) if keeps_accuracy(bsp, scout, tolerance) else math.nan,
  )


def render(degrees: Sequence[Degree], results: Outcomes, tolerance: float) -> str:
  """Returns the savings as a Markdown table with one line per degree of skew."""
  rows = []
  for degree in degrees:
    saving, bsp = measure(degree, results, tolerance), results[degree.bsp]
    theta = "" if saving.oracle_theta is None else f" ({saving.oracle_theta})"
    cells = [_percent(bsp), _bytes(bsp), _times(saving.oracle) + theta]
    cells += [_percent(results[degree.scout]), _times(saving.scout)]
    rows.append([degree.label, *cells, _times(saving.overhead, "of Oracle", "-")])
  head = ["non-IID", "BSP, top-1", "BSP sends", "Oracle saves", "SkewScout, top-1"]
  head += ["SkewScout saves", "SkewScout sends"]
  return (
    f"Communication saved over BSP by runs at most {tolerance:g} points below BSP's accuracy at "
    f"the same degree of skew:\n\n{text_tables.as_markdown(head, rows)}"
  )


def draw(degrees: Sequence[Degree], results: Outcomes, tolerance: float, title: str) -> Figure:
  """Draws fig. 8: a bar per saving of SkewScout and the Oracle; none if accuracy is lost."""
  savings = [measure(degree, results, tolerance) for degree in degrees]
  series = {"SkewScout": [s.scout for s in savings], "Oracle": [s.oracle for s in savings]}
  groups = [f"{s.label} non-IID" for s in savings]
  axis = "BSP's communication / the run's communication"
  return bars.bars_figure(groups, series, title, axis, "{:.1f}x", "none")


def as_csv(degrees: Sequence[Degree], results: Outcomes, tolerance: float) -> str:
  """Returns CSV text, a line per run: accuracy, bytes, saving, whether it keeps BSP's accuracy."""
  rows = []
  for degree in degrees:
    best, bsp = measure(degree, results, tolerance).oracle_theta, results[degree.bsp]
    for run, name in {"BSP": degree.bsp, **degree.thetas, "SkewScout": degree.scout}.items():
      result = results[name]
      values = [result.top1, result.sent, saving_ratio(bsp, result)]
      cells = [value if math.isfinite(value) else "" for value in values]
      keeps = int(keeps_accuracy(bsp, result, tolerance))
      rows.append([degree.label, run, *cells, keeps, int(run == best), Path(name).name])
  head = ["non_iid", "run", "top1", "bytes", "saved", "kept", "oracle", "folder"]
  return text_tables.as_csv(head, rows)


def _percent(result: Outcome) -> str:
  value = result.top1
  return f"{value:.2f}" if math.isfinite(value) else "diverged"


def _bytes(result: Outcome) -> str:
  return human_bytes(int(result.sent)) if math.isfinite(result.sent) else "-"


def _times(value: float, of: str = "", otherwise: str = "none") -> str:
  return f"{value:.1f}x {of}".rstrip() if math.isfinite(value) else otherwise
