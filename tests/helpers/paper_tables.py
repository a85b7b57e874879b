"""Access to the papers' tables by label, for tests."""

from fedjax_norm.papers import tables
from fedjax_norm.papers.registry import TABLES
from fedjax_norm.papers.results import CellResult, TableResult

CELLS = {cell.name: cell for table in TABLES.values() for cell in table.cells}
SIZES = {"digits": 1437, "mnist": 60_000, "cifar10": 50_000, "tiny_imagenet": 100_000}
"""Data -> number of training examples."""


def resolve(cell: tables.Cell, scale: str):
  """Returns the flags of a cell at a scale, with epochs converted to rounds."""
  config = cell.config(scale)
  return config.in_rounds(config.clients, SIZES.get(config.data, 10_000))


def tables_of(*papers: str) -> list[tables.Table]:
  """Returns the tables of papers, for example of "000"."""
  return [table for name, table in TABLES.items() if name.partition(".")[0] in papers]


def by_label(name: str) -> dict[str, tables.Cell]:
  """Returns label -> cell of a table."""
  return {cell.label: cell for cell in TABLES[name].cells}


_SETTINGS: dict[tuple[str, str], str] = {}


def _settings(cell: tables.Cell, scale: str) -> str:
  """Returns a cell's checksum, computed once for each name and scale."""
  if (cell.name, scale) not in _SETTINGS:
    _SETTINGS[cell.name, scale] = cell.settings(scale)
  return _SETTINGS[cell.name, scale]


def invented(table: tables.Table, top1, scale="small", **figures) -> TableResult:
  """Returns an invented result: ``top1(label)`` is the accuracy in percent of the first of 3 seeds.

  Args:
    table: the table.
    top1: label -> accuracy in percent; None for a cell that diverged.
    scale: the scale.
    **figures: name of a further figure -> function from a label to its value.
  """
  cells = {}
  for cell in table.cells:
    first = top1(cell.label)
    runs = (
      {}
      if first is None
      else {
        seed: {"top1": first + step, "top5": 99.0, **{k: f(cell.label) for k, f in figures.items()}}
        for seed, step in enumerate((0.0, 0.3, 0.6))
      }
    )
    reason = None if runs else "the loss became infinite."
    cells[cell.label] = CellResult(
      "done" if runs else "diverged", reason, 60.0, runs, settings=_settings(cell, scale)
    )
  made = {"date": "2026-01-01", "commit": "c", "machine": "m", "versions": "v", "command": "run"}
  return TableResult(table.name, scale, made, 10_000, 10.0, cells, [])
