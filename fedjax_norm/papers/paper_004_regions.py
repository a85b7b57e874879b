"""Table 1 of paper 004: shares of the mammals that are most typical of each continent."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

TABLE_1: Mapping[str, Mapping[str, float]] = MappingProxyType(
  {
    "Africa": {"zebra": 72, "antelope": 71, "lion": 68, "cheetah": 62, "hippopotamus": 59},
    "Americas": {"mule": 84, "skunk": 82, "armadillo": 73, "harbor seal": 65, "squirrel": 61},
    "Asia": {"panda": 64, "hamster": 59, "monkey": 58, "camel": 51, "red panda": 42},
    "Europe": {"lynx": 72, "hedgehog": 56, "sheep": 56, "deer": 43, "otter": 43},
    "Oceania": {"kangaroo": 92, "koala": 92, "whale": 44, "sea lion": 34, "alpaca": 32},
  }
)
"""Continent -> class -> percent of the class's pictures, as if all continents had equally many."""


def beside(
  share: np.ndarray, regions: Sequence[str], class_names: Sequence[str]
) -> list[tuple[str, str, float, float]]:
  """Returns (region, class, share here, share in table 1) where data have both names.

  Names are compared without case, and ``_`` and ``-`` count as spaces.

  Args:
    share: [R, C] normalized shares from 0 to 1 (``label_share.normalized``).
    regions: R names.
    class_names: C names.
  """
  known = {_plain(name): row for name, row in zip(regions, share, strict=True)}
  column = {_plain(name): c for c, name in enumerate(class_names)}
  return [
    (region, name, float(known[_plain(region)][column[name]]), percent / 100)
    for region, classes in TABLE_1.items()
    for name, percent in classes.items()
    if _plain(region) in known and name in column
  ]


def _plain(name: str) -> str:
  return name.casefold().replace("_", " ").replace("-", " ").strip()
