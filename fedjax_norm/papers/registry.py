"""The tables of all papers, by name."""

from fedjax_norm.errors import UserError
from fedjax_norm.papers import (
  paper_000_isolated_norms,
  paper_001_edgify,
  paper_003_split_learning,
  paper_004_noniid_quagmire,
)
from fedjax_norm.papers.tables import Table

_PAPERS = (
  paper_000_isolated_norms,
  paper_001_edgify,
  paper_003_split_learning,
  paper_004_noniid_quagmire,
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
      raise UserError(
        f"--table has {name!r}, which is no table; choose names from --list, the part of a name "
        "before a dot, such as 004.6 or 003, or all."
      )
    chosen += matching
  return [TABLES[name] for name in dict.fromkeys(chosen)]
