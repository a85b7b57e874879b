"""Plots of clients: their examples by class, and their test accuracies."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter, StrMethodFormatter

from fedjax_norm.plots import base

_MOST_DRAWN = 100
_MOST_STACKS = 30  # more clients are a heat map


def shown_clients(population: int) -> np.ndarray:
  """Returns the clients that ``partition_figure`` draws: all, or a fixed random sample of 100."""
  if population <= _MOST_DRAWN:
    return np.arange(population)
  # Evenly spaced clients would show only one class if classes are assigned to clients in turn.
  return np.sort(np.random.default_rng(0).choice(population, _MOST_DRAWN, replace=False))


def partition_figure(
  counts: np.ndarray,
  class_names: Sequence[str],
  title: str,
  population: int | None = None,
  client_names: Sequence[str] | None = None,
) -> Figure:
  """Draws each client's number of examples of each class.

  Up to 30 clients are bars, stacked by class. More are the columns of a heat map of the classes'
  shares in a client's examples, below bars of their numbers; of more than 100 clients, a fixed
  random sample of 100 is drawn, as the axis label says.

  Args:
    counts: [K, C] ints, number of examples of each class at each client.
    class_names: C names; up to 20 are in a legend, more are on a colour bar.
    title: title of one line.
    population: K, if ``counts`` has only the rows of ``shown_clients(K)``.
    client_names: K names, or None if the clients have only numbers.

  Raises:
    ValueError: the shapes do not fit, or a count is negative.
  """
  counts = np.asarray(counts)
  if counts.ndim != 2 or 0 in counts.shape or counts.shape[1] != len(class_names):
    raise ValueError(
      f"The counts have the shape {counts.shape}; expected [clients, {len(class_names)}]."
    )
  if (counts < 0).any():
    raise ValueError("A count of examples is negative.")
  population, classes = population or len(counts), counts.shape[1]
  shown = shown_clients(population)
  counts = counts[shown] if len(counts) == population else counts
  width = 9.0 if classes <= base.MOST_NAMED or len(shown) > _MOST_STACKS else 8.0
  figure, (axes,) = base.new_figure(title, (width, 4.2), 1)
  if len(shown) <= _MOST_STACKS or classes == 1:
    _draw_stacks(figure, axes, counts, class_names)
  else:
    _draw_shares(figure, axes, counts, class_names)
  every = _every(len(shown), 20 if len(shown) <= 20 else 10)
  if client_names and len(shown) <= _MOST_STACKS:
    ticks, labels = np.arange(len(shown)), [base.shortened(client_names[k], 20) for k in shown]
    upright = sum(map(len, labels)) > 70
    axes.set_xticks(ticks, labels, rotation=90 if upright else 0, fontsize=8)
  else:
    axes.set_xticks(every, [f"{shown[t]:,}" for t in every])
  axes.set_xlabel("client")
  if len(shown) < population:
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"client (a random {len(shown)} of {population:,}, in order)")
  return figure


def _draw_stacks(
  figure: Figure, axes: Axes, counts: np.ndarray, class_names: Sequence[str]
) -> None:
  """Draws a bar for each client, its number of examples, stacked by class."""
  clients, classes = counts.shape
  tops = np.cumsum(counts, axis=1)
  colours = base.category_colours(classes)
  # One collection per class: one patch per bar would take seconds with hundreds of classes.
  left = np.arange(clients) - 0.42
  right = left + 0.84
  edges = "white" if classes <= base.MOST_NAMED else "none"
  for i in range(classes):
    low, high = tops[:, i] - counts[:, i], tops[:, i]
    corners = np.stack([left, low, left, high, right, high, right, low], 1).reshape(-1, 4, 2)
    style = {"facecolors": colours[i], "edgecolors": edges, "linewidths": 0.4}
    parts = PolyCollection(list(corners[counts[:, i] > 0]), label=str(class_names[i]), **style)
    axes.add_collection(parts, autolim=False)
  margin = max(0.6, (5 - clients) * 0.5)
  axes.set_xlim(-margin, clients - 1 + margin)
  axes.set_ylim(0, max(1, tops[:, -1].max()) * 1.04)
  axes.set_ylabel("examples")
  axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
  if classes <= base.MOST_NAMED:
    pairs = zip(colours, class_names, strict=True)
    handles = [Patch(color=colour, label=str(name)[:24]) for colour, name in pairs]
    # Outside the panel, in the order of the stacks from the top down.
    text = {"title": "class", "frameon": False, "fontsize": 8 if classes > 10 else 9}
    figure.legend(handles=handles[::-1], loc="outside right center", **text)
    return
  boundaries = BoundaryNorm(np.arange(classes + 1) - 0.5, classes)
  scale = ScalarMappable(boundaries, ListedColormap(colours))
  bar = figure.colorbar(scale, ax=axes, pad=0.02, spacing="proportional")
  ticks = _every(classes, 8)
  bar.set_ticks(ticks.tolist(), labels=[str(class_names[t])[:24] for t in ticks])
  bar.minorticks_off()
  bar.set_label(f"class ({classes} in all)")


def _draw_shares(
  figure: Figure, axes: Axes, counts: np.ndarray, class_names: Sequence[str]
) -> None:
  """Draws the classes' shares (rows) in the clients' examples (columns), below the sizes."""
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  image = axes.imshow(shares.T, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="none")
  ticks = _every(len(class_names), base.MOST_NAMED)
  axes.set_yticks(ticks, [base.shortened(str(class_names[t]), 20) for t in ticks], fontsize=8)
  axes.set_ylabel("class")
  axes.grid(visible=False)
  bar = figure.colorbar(image, ax=axes, pad=0.02)
  bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  bar.set_label("share of a client's examples")
  above = axes.inset_axes((0.0, 1.03, 1.0, 0.18), sharex=axes)
  above.bar(np.arange(len(counts)), counts.sum(1), 0.8, color="0.6")
  above.tick_params(axis="x", labelbottom=False)
  above.yaxis.set_major_locator(MaxNLocator(2, integer=True))
  above.set_ylabel("examples", fontsize=8)
  base.tidy(above)


def client_accuracy_figure(
  accuracies: np.ndarray, title: str, ids: np.ndarray | None = None
) -> Figure:
  """Draws the clients' test accuracies as sorted bars, or as a histogram for more than 100 clients.

  Args:
    accuracies: [K] values from 0 to 1; NaN for clients without test examples, which are omitted.
    title: title of one line.
    ids: [K] ids or names of the clients; 0 to K - 1 by default.

  Raises:
    ValueError: the accuracies are not a vector.
  """
  accuracies = np.asarray(accuracies, dtype=np.float64)
  if accuracies.ndim != 1:
    raise ValueError(f"The accuracies have the shape {accuracies.shape}; expected [clients].")
  clients = np.flatnonzero(np.isfinite(accuracies))
  clients = clients[np.argsort(accuracies[clients], kind="stable")]
  values = accuracies[clients]
  shown_ids = clients if ids is None else np.asarray(ids)[clients]
  figure, (axes,) = base.new_figure(title, (7.5, 4.0), 1)
  omitted = len(accuracies) - len(values)
  note = f", {omitted:,} without test examples left out" if omitted else ""
  percent = PercentFormatter(1.0, decimals=0)
  if len(values) > _MOST_DRAWN:
    bins = np.linspace(0, 1, 41).tolist()
    axes.hist(values, bins=bins, color=base.COLOURS[0], edgecolor="white", linewidth=0.4)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(MultipleLocator(0.2))
    axes.xaxis.set_major_formatter(percent)
    axes.set_xlabel(f"test accuracy ({len(values):,} clients{note})")
    axes.set_ylabel("clients")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    line: Callable[..., Any] = axes.axvline
  else:
    axes.bar(np.arange(len(values)), values, width=0.84, color=base.COLOURS[0])
    margin = max(0.6, (5 - len(values)) * 0.5)
    axes.set_xlim(-margin, max(len(values), 1) - 1 + margin)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(percent)
    if len(values) <= 20:
      labels = [str(client)[:24] for client in shown_ids]
      # Names of neighbours would overlap if they were level.
      slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
      level = sum(map(len, labels)) <= 60
      axes.set_xticks(np.arange(len(values)), labels, **({} if level else slanted))
      axes.set_xlabel(f"client, sorted by accuracy{note}")
    else:
      axes.set_xticks([])
      axes.set_xlabel(f"{len(values)} clients, sorted by accuracy{note}")
    axes.set_ylabel("test accuracy")
    line = axes.axhline
  if len(values):
    mean = values.mean()
    line(mean, color=base.COLOURS[1], linestyle="--", linewidth=1.5, label=f"mean {mean:.1%}")
    # Above the panel, because no position inside is free for every distribution.
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
  return figure


def _every(total: int, most: int) -> np.ndarray:
  """Returns at most ``most`` evenly spaced indices below ``total``, from 0."""
  return np.arange(0, total, -(-total // most))
