"""Names in a data set: their normalized text, the usual names of splits, and short lists."""

import unicodedata
from collections.abc import Collection

_SPELLINGS = {
  "train": ("train", "training", "trainset"),
  "test": ("test", "testing", "testset", "holdout"),
  "val": ("val", "valid", "validation", "valset", "dev", "eval", "evaluation"),
}
_SPLITS = {spelling: split for split, names in _SPELLINGS.items() for spelling in names}
_MOST_LISTED = 10


def normalize(text: str) -> str:
  """Composes the characters (Unicode's NFC), so that texts that look the same are equal."""
  return unicodedata.normalize("NFC", text)


def split_of(name: str) -> str | None:
  """Returns the split (train, test or val) that a name such as 'Training' means, or None."""
  return _SPLITS.get(name.lower())


def join_first(names: Collection[str]) -> str:
  """Joins the first ten names with commas, followed by the number of further names."""
  first = ", ".join(list(names)[:_MOST_LISTED])
  more = len(names) - _MOST_LISTED
  return f"{first} and {more:,} more" if more > 0 else first
