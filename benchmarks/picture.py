"""Draws the results: bars per workload and system, and lines over the population."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import Summary, number
from benchmarks.systems import OURS, SYSTEMS
from benchmarks.workloads import Workload
from fedjax_norm.plots.base import COLOURS

_COLOUR = {system.name: COLOURS[i % len(COLOURS)] for i, system in enumerate(SYSTEMS)}
_COLUMNS = 3


def draw(workloads: Sequence[Workload], by_key: Mapping[str, Sequence[Summary]]) -> Figure:
  """Draws the workloads that have results.

  Args:
    workloads: the measured workloads.
    by_key: summaries by the key of the workload.
  """
  bars = [one for one in workloads if one.key[0] != "f"]
  populations = [one for one in workloads if one.key[0] == "f"]
  panels = len(bars) + 2 * bool(populations)
  rows = -(-panels // _COLUMNS)
  figure = Figure((5.2 * min(panels, _COLUMNS), 3.4 * rows), layout="constrained")
  axes = [figure.add_subplot(rows, min(panels, _COLUMNS), 1 + i) for i in range(panels)]
  for axis, one in zip(axes, bars, strict=False):
    _bars(axis, one, [s for s in by_key[one.key] if not s.reason])
  if populations:
    unit = populations[0].unit
    _lines(axes[-2], populations, by_key, f"(f) {unit}", lambda one, s: one.shown(s.median))
    _lines(axes[-1], populations, by_key, "(f) peak private memory, MB", lambda _, s: s.private_mb)
    axes[-2].legend(fontsize=7)
  return figure


def _bars(axis: Axes, one: Workload, summaries: Sequence[Summary]) -> None:
  spread = [
    [one.shown(s.median - s.low) for s in summaries],
    [one.shown(s.high - s.median) for s in summaries],
  ]
  places = range(len(summaries))
  colours = [_COLOUR[s.system] for s in summaries]
  medians = [one.shown(s.median) for s in summaries]
  axis.barh(places, medians, xerr=spread, color=colours, ecolor="#555555", capsize=2)
  axis.set_yticks(places, [s.title for s in summaries], fontsize=8)
  for label, s in zip(axis.get_yticklabels(), summaries, strict=True):
    label.set_fontweight("bold" if s.system == OURS else "normal")
  for place, s in zip(places, summaries, strict=True):
    axis.annotate(
      number(one.shown(s.median)),
      (one.shown(s.high), place),
      (5, 0),
      textcoords="offset points",
      va="center",
      fontsize=8,
    )
  axis.margins(x=0.15)
  axis.invert_yaxis()
  axis.set_title(f"({one.key}) {one.title}", fontsize=9)
  axis.set_xlabel(f"{one.unit}: median, least and greatest", fontsize=8)
  axis.tick_params(axis="x", labelsize=8)
  axis.spines[["top", "right"]].set_visible(False)


def _lines(
  axis: Axes,
  workloads: Sequence[Workload],
  by_key: Mapping[str, Sequence[Summary]],
  title: str,
  value: Callable[[Workload, Summary], float | None],
) -> None:
  lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
  for one in workloads:
    for s in by_key[one.key]:
      y = None if s.reason else value(one, s)
      if y is not None:
        lines.setdefault((s.system, s.title), []).append((one.clients, y))
  drawn = set()
  for (system, name), points in lines.items():
    style = "o--" if system in drawn else "o-"
    axis.plot(*zip(*points, strict=True), style, color=_COLOUR[system], label=name)
    drawn.add(system)
  axis.set_xscale("log")
  axis.set_ylim(bottom=0)
  axis.set_xlabel("clients", fontsize=8)
  axis.tick_params(labelsize=8)
  axis.set_title(title, fontsize=9)
  axis.spines[["top", "right"]].set_visible(False)
