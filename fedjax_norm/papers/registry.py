"""The tables of all papers, by name."""

import difflib
from collections.abc import Sequence

from fedjax_norm.errors import UserError
from fedjax_norm.papers import (
  niid_bench,
  paper_000_cases,
  paper_000_isolated_norms,
  paper_001_edgify,
  paper_002_fixbn,
  paper_002_segmentation,
  paper_003_split_learning,
  paper_004_noniid_quagmire,
)
from fedjax_norm.papers.tables import Cell, Table

_PAPERS = (
  paper_000_isolated_norms,
  paper_000_cases,
  paper_001_edgify,
  paper_002_fixbn,
  paper_002_segmentation,
  paper_003_split_learning,
  paper_004_noniid_quagmire,
  niid_bench,
)
TABLES = {table.name: table for paper in _PAPERS for table in paper.TABLES}


def choose(names: str) -> list[Table]:
  """Returns the tables of ``--table``: names, or beginnings of names up to a dot, or all.

  Raises:
    UserError: a name is unknown.
  """
  chosen: list[str] = []
  for name in names.split(","):
    matching = [table for table in TABLES if name == "all" or f"{table}.".startswith(f"{name}.")]
    if not matching:
      near = difflib.get_close_matches(name, TABLES, 1)
      hint = f"did you mean {near[0]}? " if near else ""
      raise UserError(
        f"--table has {name!r}, which is no table and no part of a name before a dot; {hint}see "
        "--list."
      )
    chosen += matching
  return [TABLES[name] for name in dict.fromkeys(chosen)]


def choose_cells(tables: Sequence[Table], texts: str | None) -> dict[str, Cell]:
  """Returns name -> cell of the tables, of those that ``--cells`` selects.

  Raises:
    UserError: no label contains one of the texts.
  """
  cells = [cell for table in tables for cell in table.cells]
  if texts is None:
    return {cell.name: cell for cell in cells}
  found: dict[str, Cell] = {}
  for text in texts.split(";"):
    wanted = text.strip().casefold()
    matching = {cell.name: cell for cell in cells if wanted in cell.label.casefold()}
    if not matching:
      labels = ", ".join(repr(label) for label in dict.fromkeys(cell.label for cell in cells))
      raise UserError(f"--cells has {text!r}, which no cell of the tables has; they are {labels}.")
    found |= matching
  return found
