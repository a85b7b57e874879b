"""The pictures of a run: each has a pure function that builds the figure, and one that saves it.

Rows are those of ``RunFolder.rows``, with the columns ``round``, those of ``measures.py`` and,
where there are any, ``train_loss``, ``loss`` and ``simulated_seconds``.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import (
  FuncFormatter,
  MaxNLocator,
  MultipleLocator,
  PercentFormatter,
  StrMethodFormatter,
)

from fedjax_norm.training.measures import measures_of
from fedjax_norm.training.table import human_seconds

Rows = Sequence[Mapping[str, Any]]

# Okabe and Ito's colours, told apart with any common colour blindness; yellow is left out, which
# is too light for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
_MOST_BARS = 100
_TIME = "simulated_seconds"
_MOST_NAMED_CLASSES = 20


def save(figure: Figure, path: str | os.PathLike) -> None:
  """Writes a figure as a PNG, whole or not at all.

  Args:
    figure: one of this module's.
    path: the file; its folder exists.
  """
  path = Path(path)
  temporary = path.with_name(path.name + ".tmp")
  FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=144)
  os.replace(temporary, path)


def learning_curves(
  rows: Rows, path: str | os.PathLike, title: str, phase_change: int | None = None
) -> None:
  """Saves ``learning_curves_figure``."""
  save(learning_curves_figure(rows, title, phase_change), path)


def compare(runs: Mapping[str, Rows], path: str | os.PathLike, title: str) -> None:
  """Saves ``compare_figure``."""
  save(compare_figure(runs, title), path)


def partition(
  counts: np.ndarray,
  class_names: Sequence[str],
  path: str | os.PathLike,
  title: str,
  population: int | None = None,
) -> None:
  """Saves ``partition_figure``."""
  save(partition_figure(counts, class_names, title, population), path)


def client_accuracy(
  accuracies: np.ndarray, path: str | os.PathLike, title: str, ids: np.ndarray | None = None
) -> None:
  """Saves ``client_accuracy_figure``."""
  save(client_accuracy_figure(accuracies, title, ids), path)


def learning_curves_figure(rows: Rows, title: str, phase_change: int | None = None) -> Figure:
  """Test accuracy and losses against the round; where there is one, against simulated time too.

  Args:
    rows: the run's rows; a column that is absent is not drawn.
    title: one line.
    phase_change: the round at which the statistics were frozen, or None.
  """
  timed = _timed(rows)
  figure, (left, right, *more) = _figure(title, (9.0 + 4.5 * timed, 3.8), 2 + timed)
  tested = measures_of({name for row in rows for name in row})
  accuracies = {name: measure.title for name, measure in tested.items() if measure.best_is_one}
  _curves(left, rows, accuracies)
  for axes in more:
    _curves(axes, rows, accuracies, _TIME)
    _accuracy_axis(axes, accuracies)
    _time_axis(axes)
  _curves(right, rows, {"train_loss": "train", "loss": "test"})
  _accuracy_axis(left, accuracies)
  right.set_ylabel("loss")
  for axes in (left, right, *more):
    if phase_change is not None and axes not in more:
      axes.axvline(phase_change, color="0.45", linestyle=":", linewidth=1.2, zorder=1)
      axes.annotate(
        "freeze",
        (phase_change, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        color="0.35",
      )
    if axes.get_legend_handles_labels()[0]:
      axes.legend(frameon=False, loc="best")
  return figure


def compare_figure(runs: Mapping[str, Rows], title: str, leaders: bool = True) -> Figure:
  """The headline measure of several runs against the round, each named at the end of its line.

  Runs differ in colour, line and marker, so that the picture also reads in grey. Where all of them
  tell simulated time, a second panel has that.

  Args:
    runs: name to rows, in the order of the colours; all of one task.
    title: one line.
    leaders: whether fine lines lead from the runs' ends to their names; where some end early, they
      would cross the picture.
  """
  tested = measures_of({name for rows in runs.values() for row in rows for name in row})
  column_of, title_of = next(((n, m.title) for n, m in tested.items()), ("top1", "top-1"))
  timed = all(map(_timed, runs.values()))
  names = 0.07 * max(0, max(map(len, runs), default=0) - 20)  # inches that long ones want beside
  figure, panes = _figure(title, (7.5 + 4.5 * timed + names, 4.5), 1 + timed)
  for axes, column in zip(panes, ("round", _TIME), strict=False):
    for i, (name, rows) in enumerate(runs.items()):
      places, values = _column(rows, column_of, column)
      axes.plot(places, values, label=name, **_style(i), **_sparse(places, i))
    _accuracy_axis(axes, tested)
  panes[0].set_ylabel("top-1 test accuracy" if title_of == "top-1" else title_of)
  if timed:
    _time_axis(panes[-1])
  _name_ends(panes[-1], runs, column_of, _TIME if timed else "round", leaders)
  return figure


def _name_ends(axes: Axes, runs: Mapping[str, Rows], what: str, column: str, leaders: bool) -> None:
  """Writes each run's name and last accuracy to the right of its line's end."""
  ends = []
  for i, (name, rows) in enumerate(runs.items()):
    places, values = _column(rows, what, column)
    finite = np.flatnonzero(np.isfinite(values))
    if finite.size:
      ends.append((name, places[finite[-1]], values[finite[-1]], _style(i)))
  heights = _apart([value / 1.02 for _, _, value, _ in ends], min(0.052, 1 / max(len(ends), 1)))
  for (name, place, value, style), height in zip(ends, heights, strict=True):
    # A piece of the line beside the name tells runs of one colour apart, and runs in grey.
    axes.plot(
      [1.05, 1.085, 1.12],
      [height] * 3,
      transform=axes.transAxes,
      clip_on=False,
      markevery=[1],
      label="_sample",
      **style,
    )
    if leaders:
      axes.annotate(
        "",
        (place, value),
        xytext=(1.05, height),
        textcoords="axes fraction",
        arrowprops={
          "arrowstyle": "-",
          "color": style["color"],
          "linewidth": 0.6,
          "alpha": 0.6,
          "shrinkA": 0,
          "shrinkB": 0,
        },
      )
    axes.text(
      1.135, height, f"{name} {value:.1%}", transform=axes.transAxes, fontsize=9, va="center"
    )


def shown_clients(population: int) -> np.ndarray:
  """The clients that ``partition_figure`` shows of a population: all, or the same 100 each time."""
  return _sample(population, _MOST_BARS)


def partition_figure(
  counts: np.ndarray, class_names: Sequence[str], title: str, population: int | None = None
) -> Figure:
  """Bars of the clients' examples, stacked by class.

  Above 100 clients, a sample of 100 is drawn, the same each time, and the picture says so.

  Args:
    counts: [K, C] ints, examples of each class at each client.
    class_names: C names; up to 20 stand in a legend, more become a colour bar.
    title: one line.
    population: K, where the counts are of its ``shown_clients`` alone.

  Raises:
    ValueError: the shapes do not go together, or a count is negative.
  """
  counts = np.asarray(counts)
  if counts.ndim != 2 or 0 in counts.shape or counts.shape[1] != len(class_names):
    raise ValueError(
      f"The counts have the shape {counts.shape}; it has to be [clients, {len(class_names)}]."
    )
  if (counts < 0).any():
    raise ValueError("A count of examples is negative.")
  clients, classes = population or len(counts), counts.shape[1]
  shown = shown_clients(clients)
  figure, (axes,) = _figure(title, (9.0 if classes <= _MOST_NAMED_CLASSES else 8.0, 4.2), 1)
  counts = counts if population else counts[shown]
  tops = np.cumsum(counts, axis=1)
  colours = category_colours(classes)
  # A collection a class: a patch a bar would take seconds for hundreds of classes.
  for i in range(classes):
    low, high = tops[:, i] - counts[:, i], tops[:, i]
    left = np.arange(len(shown)) - 0.42
    right = left + 0.84
    corners = np.stack([left, low, left, high, right, high, right, low], 1).reshape(-1, 4, 2)
    axes.add_collection(
      PolyCollection(
        list(corners[counts[:, i] > 0]),
        facecolors=colours[i],
        edgecolors="white" if classes <= _MOST_NAMED_CLASSES and len(shown) <= 40 else "none",
        linewidths=0.4,
        label=str(class_names[i]),
      ),
      autolim=False,
    )
  margin = max(0.6, (5 - len(shown)) * 0.5)
  axes.set_xlim(-margin, len(shown) - 1 + margin)
  axes.set_ylim(0, max(1, tops[:, -1].max()) * 1.04)
  axes.set_ylabel("examples")
  axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
  ticks = _every(len(shown), 20 if len(shown) <= 20 else 10)
  axes.set_xticks(ticks, [f"{shown[t]:,}" for t in ticks])
  if len(shown) < clients:
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"client (a random {len(shown)} of {clients:,}, in order)")
  else:
    axes.set_xlabel("client")
  if classes <= _MOST_NAMED_CLASSES:
    handles = [
      Patch(color=colour, label=str(name)[:24])
      for colour, name in zip(colours, class_names, strict=True)
    ]
    # Outside, and from the top down in the order of the stacks.
    figure.legend(
      handles=handles[::-1],
      loc="outside right center",
      title="class",
      frameon=False,
      fontsize=8 if classes > 10 else 9,
    )
  else:
    scale = ScalarMappable(
      BoundaryNorm(np.arange(classes + 1) - 0.5, classes), ListedColormap(colours)
    )
    bar = figure.colorbar(scale, ax=axes, pad=0.02, spacing="proportional")
    ticks = _every(classes, 8)
    bar.set_ticks(ticks.tolist(), labels=[str(class_names[t])[:24] for t in ticks])
    bar.minorticks_off()
    bar.set_label(f"class ({classes} in all)")
  return figure


def client_accuracy_figure(
  accuracies: np.ndarray, title: str, ids: np.ndarray | None = None
) -> Figure:
  """The clients' test accuracies: sorted bars, or a histogram of more than 100 clients.

  Args:
    accuracies: [K], 0 to 1; a client without test examples has NaN and is left out.
    title: one line.
    ids: [K] what the clients are called; 0 to K - 1 by default.

  Raises:
    ValueError: the accuracies are no vector.
  """
  accuracies = np.asarray(accuracies, dtype=np.float64)
  if accuracies.ndim != 1:
    raise ValueError(f"The accuracies have the shape {accuracies.shape}; it has to be [clients].")
  clients = np.flatnonzero(np.isfinite(accuracies))
  clients = clients[np.argsort(accuracies[clients], kind="stable")]
  values = accuracies[clients]
  called = clients if ids is None else np.asarray(ids)[clients]
  figure, (axes,) = _figure(title, (7.5, 4.0), 1)
  omitted = len(accuracies) - len(values)
  note = f", {omitted:,} without test examples left out" if omitted else ""
  percent = PercentFormatter(1.0, decimals=0)
  if len(values) > _MOST_BARS:
    bins = np.linspace(0, 1, 41).tolist()
    axes.hist(values, bins=bins, color=COLOURS[0], edgecolor="white", linewidth=0.4)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(MultipleLocator(0.2))
    axes.xaxis.set_major_formatter(percent)
    axes.set_xlabel(f"test accuracy ({len(values):,} clients{note})")
    axes.set_ylabel("clients")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    line: Callable[..., Any] = axes.axvline
  else:
    axes.bar(np.arange(len(values)), values, width=0.84, color=COLOURS[0])
    margin = max(0.6, (5 - len(values)) * 0.5)
    axes.set_xlim(-margin, max(len(values), 1) - 1 + margin)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(percent)
    if len(values) <= 20:
      axes.set_xticks(np.arange(len(values)), [str(client) for client in called])
      axes.set_xlabel(f"client, sorted by accuracy{note}")
    else:
      axes.set_xticks([])
      axes.set_xlabel(f"{len(values)} clients, sorted by accuracy{note}")
    axes.set_ylabel("test accuracy")
    line = axes.axhline
  if len(values):
    mean = values.mean()
    line(mean, color=COLOURS[1], linestyle="--", linewidth=1.5, label=f"mean {mean:.1%}")
    # Above the axes: inside there is no place that is free for every distribution.
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
  return figure


def _figure(title: str, size: tuple[float, float], panels: int) -> tuple[Figure, list[Axes]]:
  figure = Figure(figsize=size, layout="constrained")
  FigureCanvasAgg(figure)
  figure.suptitle(title, fontsize=12)
  panes = list(np.atleast_1d(figure.subplots(1, panels)))
  for axes in panes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
  return figure, panes


def _column(rows: Rows, name: str, against: str = "round") -> tuple[np.ndarray, np.ndarray]:
  """(where, what): the values of a column against another's."""
  pairs = [(row[against], row[name]) for row in rows if name in row]
  places, values = zip(*pairs, strict=True) if pairs else ((), ())
  return np.asarray(places), np.asarray(values, dtype=np.float64)


def _curves(axes: Axes, rows: Rows, names: Mapping[str, str], against: str = "round") -> None:
  for i, (name, label) in enumerate(names.items()):
    places, values = _column(rows, name, against)
    if places.size:
      axes.plot(places, values, label=label, **_style(i), **_sparse(places, i))


def _timed(rows: Rows) -> bool:
  return bool(rows) and all(_TIME in row for row in rows)


def _accuracy_axis(axes: Axes, names: Collection[str]) -> None:
  axes.set_ylabel("R² on the test set" if "r2" in names else "test accuracy")
  axes.set_ylim(0, 1.02)
  axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _time_axis(axes: Axes) -> None:
  axes.set_xlabel("simulated time")
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.set_xlim(left=0)
  axes.xaxis.set_major_formatter(
    FuncFormatter(lambda seconds, _: human_seconds(seconds) if seconds > 0 else "0")
  )


def _style(i: int) -> dict[str, Any]:
  # Three cycles of lengths without a common factor: no two of the first 308 are alike.
  return {
    "color": COLOURS[i % len(COLOURS)],
    "linestyle": _STYLES[i % len(_STYLES)],
    "marker": _MARKERS[i % len(_MARKERS)],
    "markersize": 4.5,
    "linewidth": 1.6,
  }


def _sparse(rounds: np.ndarray, i: int) -> dict[str, Any]:
  # About eight markers a line, at other places on each, so that none hides another.
  step = max(1, len(rounds) // 8)
  return {"markevery": (i % step, step)}


def _apart(heights: Sequence[float], gap: float) -> list[float]:
  """The nearest heights in 0..1 that keep their order and are at least a gap apart."""
  order = np.argsort(heights, kind="stable")
  # (centre, members) of names that touch and so move as one.
  groups: list[tuple[float, int]] = []
  for i in order:
    groups.append((_inside(float(heights[i]), 1, gap), 1))
    while len(groups) > 1:
      (low, m), (high, n) = groups[-2:]
      if high - low >= gap * (m + n) / 2 - 1e-9:
        break
      # What each member wants for the whole group's centre, averaged.
      centre = (m * (low + gap * n / 2) + n * (high - gap * m / 2)) / (m + n)
      groups[-2:] = [(_inside(centre, m + n, gap), m + n)]
  placed = [centre + gap * (j - (n - 1) / 2) for centre, n in groups for j in range(n)]
  result = np.empty(len(placed))
  result[order] = placed
  return result.tolist()


def _inside(centre: float, members: int, gap: float) -> float:
  half = gap * (members - 1) / 2
  return min(max(centre, half), 1 - half)


def _sample(total: int, most: int) -> np.ndarray:
  """Sorted indices below a total: all of them, or a fixed random choice of ``most``.

  Random, for even steps would meet only one class where classes go to clients in turn.
  """
  if total <= most:
    return np.arange(total)
  return np.sort(np.random.default_rng(0).choice(total, most, replace=False))


def _every(total: int, most: int) -> np.ndarray:
  """At most so many of the indices below a total, at one whole step from 0."""
  return np.arange(0, total, -(-total // most))


def category_colours(classes: int) -> list[Any]:
  """Colours for so many classes or regions, as distinct as there are."""
  if classes <= len(COLOURS):
    return list(COLOURS[:classes])
  if classes <= 10:
    return [*COLOURS, "#F0E442", "#999999", "#882255"][:classes]
  if classes <= _MOST_NAMED_CLASSES:
    return list(matplotlib.colormaps["tab20"](np.arange(classes)))
  return list(matplotlib.colormaps["turbo"](np.linspace(0.02, 0.98, classes)))
