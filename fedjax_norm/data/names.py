"""The names in a data set: one form of each text, and which names mean a split."""

import unicodedata
from collections.abc import Collection

_SPELLINGS = {
  "train": ("train", "training", "trainset"),
  "test": ("test", "testing", "testset", "holdout"),
  "val": ("val", "valid", "validation", "valset", "dev", "eval", "evaluation"),
}
_SPLITS = {spelling: split for split, names in _SPELLINGS.items() for spelling in names}
_MOST_LISTED = 10


def normal(text: str) -> str:
  """Composes the characters (Unicode's NFC), so that texts that look the same are the same."""
  return unicodedata.normalize("NFC", text)


def split_of(name: str) -> str | None:
  """Finds the split that a name means, in any case.

  Args:
    name: of a folder, or what a column `split` says.

  Returns:
    `train`, `test` or `val`; None for a name that means no split.
  """
  return _SPLITS.get(name.lower())


def join_first(names: Collection[str]) -> str:
  """Lists the first few names, and says how many more there are."""
  first = ", ".join(list(names)[:_MOST_LISTED])
  more = len(names) - _MOST_LISTED
  return f"{first} and {more:,} more" if more > 0 else first
