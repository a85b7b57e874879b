"""Access to the papers' tables by label, for tests."""

from fedjax_norm.cli.commands import paper
from fedjax_norm.papers import tables

CELLS = {cell.name: cell for table in paper.TABLES.values() for cell in table.cells}
SIZES = {"digits": 1437, "cifar10": 50_000, "tiny_imagenet": 100_000}
"""Data -> number of training examples."""


def resolve(cell: tables.Cell, scale: str):
  """Returns the flags of a cell at a scale, with epochs converted to rounds."""
  config = cell.config(scale)
  return config.in_rounds(config.clients, SIZES.get(config.data, 10_000))


def tables_of(*papers: str) -> list[tables.Table]:
  """Returns the tables of papers, for example of "000"."""
  return [table for name, table in paper.TABLES.items() if name[:3] in papers]


def by_label(name: str) -> dict[str, tables.Cell]:
  """Returns label -> cell of a table."""
  return {cell.label: cell for cell in paper.TABLES[name].cells}
