"""The classes of each region: ``python -m experiments.regions --data=csv:index.csv``.

Prints for each region the classes of which it has the largest shares, after scaling all regions to
the same number of examples (paper 004, table 1). Writes the tables and figures of the paper's app.
B: training examples by class and by region, and each region's share of each class, before (raw) and
after the scaling (normalized). The regions are the clients of any partition:
``--region=subcontinent`` for the second level of the UN's M49 regions, ``--partition=dirichlet
--alpha=0.1`` for a Dirichlet partition of the same labels.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedjax_norm.cli import text_tables
from fedjax_norm.cli.app import run_plain
from fedjax_norm.data.partitions import label_share
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.partitions.registry import PartitionConfig
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.data.sources.config import DataConfig
from fedjax_norm.errors import UserError
from fedjax_norm.options import option, with_defaults
from fedjax_norm.papers import paper_004_regions
from fedjax_norm.plots import base, regions
from fedjax_norm.training.storage.atomic_files import write_atomic
from fedjax_norm.training.terminal.tables import columns_table

# Maximum number of regions in the printed table; the files contain all regions.
_MOST_PRINTED = 40


@dataclasses.dataclass(frozen=True)
class RegionsFlags(PartitionConfig, DataConfig):
  """The options of ``experiments.regions``."""

  group = "tables"
  hidden = ("image_size", "train_share", "first_classes", "relabelled")

  top: int = option(
    5, "Number of classes with the largest shares that the printed table shows per region."
  )
  seed: int = option(0, "Seed of --partition.", most=2**32 - 1)
  output: str = option("regions", "Folder for the CSV files and figures.")


CONFIG = with_defaults(RegionsFlags, partition="natural")


def run(config: RegionsFlags) -> None:
  """Prints the classes with the largest shares of each region and writes the files.

  Raises:
    UserError: an option is invalid, or the data or the folder cannot be used.
  """
  if config.top < 1:
    raise UserError(f"--top is {config.top}; it must be at least 1.")
  loaded = sources.load_labels(
    config.data, config.data_dir, region=config.region, min_region_size=config.min_region_size
  )
  division = partitions.from_config(config, loaded.labels, loaded.clients, config.seed)
  counts = partitions.counts(division, loaded.labels, len(loaded.class_names))
  names = [f"client {k}" for k in range(len(counts))]
  if config.partition == "natural" and loaded.clients is not None and loaded.client_names:
    # Client k of the partition is the k-th client named by the data that has a training example.
    names = [loaded.client_names[k] for k in np.unique(loaded.clients)]
  folder = _folder(config.output)
  shares = {"raw": label_share.raw(counts), "normalized": label_share.normalized(counts)}
  for note in loaded.notes:
    print(f"note: {note}")
  tops = label_share.top_classes(shares["normalized"], config.top)
  width = max(map(len, tops))
  rows = [
    [name, f"{size:,}", *_cells(top, share, loaded.class_names, width)]
    for name, size, top, share in zip(names, counts.sum(1), tops, shares["normalized"], strict=True)
  ]
  head = ["region", "examples", *(f"top {i + 1}" for i in range(width))]
  print(columns_table(head, rows[:_MOST_PRINTED]))
  if len(rows) > _MOST_PRINTED:
    print(f"and {len(rows) - _MOST_PRINTED:,} more regions, which the files contain")
  if printed := paper_004_regions.beside(shares["normalized"], names, loaded.class_names):
    print("\nshares beside those in table 1 of paper 004:")
    pairs = [[region, name, f"{here:.0%}", f"{paper:.0%}"] for region, name, here, paper in printed]
    print(columns_table(["region", "class", "here", "paper"], pairs), end="\n\n")
  without = label_share.mean_regions_below(shares["raw"])
  print(f"on average {without:.1f} of {len(names):,} regions have less than 1% of a class")
  _write(folder, counts, shares, names, loaded.class_names)
  print(f"written: {folder}")


def _folder(output: str) -> Path:
  folder = Path(output).expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    reason = f"the folder --output={output} cannot be created ({error.strerror})"
    raise UserError(f"{reason}; choose another path.") from error
  return folder


def _cells(top: list[int], share: np.ndarray, class_names: Sequence[str], width: int) -> list[str]:
  return [f"{class_names[c]} ({share[c]:.0%})" for c in top] + [""] * (width - len(top))


def _write(
  folder: Path,
  counts: np.ndarray,
  shares: dict[str, np.ndarray],
  names: Sequence[str],
  class_names: Sequence[str],
) -> None:
  """Writes to ``folder`` the figures and the CSV files, which have one row per region."""
  for kind, values in {"counts": counts, **shares}.items():
    rows = [
      [name, *(f"{v:.6g}" if isinstance(v, float) else v for v in row)]
      for name, row in zip(names, values.tolist(), strict=True)
    ]
    path = folder / ("counts.csv" if kind == "counts" else f"share_{kind}.csv")
    write_atomic(path, text_tables.as_csv(["region", *class_names], rows).encode())
  figures = {
    "classes": regions.amounts_figure(counts.sum(0), class_names, "Examples by class"),
    "regions": regions.amounts_figure(counts.sum(1), names, "Examples by region"),
  }
  for kind, share in shares.items():
    title = f"Share of each class by region, {kind}"
    figures[f"share_{kind}"] = regions.share_figure(share, class_names, names, title)
  for name, figure in figures.items():
    base.save(figure, folder / f"{name}.png")


def launch() -> None:
  """Runs the command with the flags of the command line, and exits."""
  run_plain(run, CONFIG, __doc__)
