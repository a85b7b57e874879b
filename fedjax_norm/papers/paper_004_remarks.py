"""Remarks of paper 004 that it has no figure for: group sizes, app. I, and SkewScout's searches."""

from collections.abc import Mapping
from typing import Any

from fedjax_norm.papers import paper_004_settings as settings
from fedjax_norm.papers.tables import Cell, Claim, Table, Value, loss
from fedjax_norm.study.verdicts import above, alike, best, keeps, rising, times

_LENET = "cifar10_lenet"
_PAPERS_SIZE = 2  # the default of GN in this network
_GROUP_SIZES = (_PAPERS_SIZE, 1, 4, 8, 16, 32)

_NORMS: Mapping[str, settings.Options] = {
  "BN": {"norm": "bn"},
  "WN": {"norm": "wn"},
  "WN with mean-only BN": {"norm": "wn", "mean_only_bn": True},
  "LN": {"norm": "ln"},
}

_SEARCHES: Mapping[str, settings.Options] = {  # with the paper's memory, which never forgets
  "hill climbing": {"skewscout": "hill", "scout_memory": 0},
  "stochastic hill climbing": {"skewscout": "stochastic", "scout_memory": 0},
  "annealing": {"skewscout": "annealing", "scout_memory": 0},
  "hill climbing that forgets": {"skewscout": "hill"},
}


def _norm_cells(name: str, flags: settings.Options) -> tuple[Cell, ...]:
  return tuple(
    settings.cell(
      f"{name}, {column}",
      _LENET,
      {**flags, "clients": 2, **partition},
      reference=None if column == "IID" else f"{name}, IID",
    )
    for column, partition in settings.PARTITIONS.items()
  )


def _search_cell(name: str, flags: settings.Options) -> Cell:
  smoke: dict[str, Any] = {"scout_every": 2, "scout_examples": 8}
  options = {"norm": "gn", "fraction": 0.6, "algorithm": "gaia", **flags}
  return settings.cell(name, _LENET, options, small={"scout_every": 64}, smoke=smoke)


TABLES = (
  Table(
    "004.group_size",
    "Paper 004, sec. 5.2: GN-LeNet on CIFAR-10 by the group size, BSP, non-IID data",
    tuple(
      settings.cell(f"size {size}", _LENET, {"norm": "gn", "group_size": size})
      if size != _PAPERS_SIZE
      else settings.cell(f"size {size}", _LENET, {"norm": "gn"}, 79.2)
      for size in _GROUP_SIZES
    ),
    (Claim("groups of two channels are the best", best(*(f"size {n}" for n in _GROUP_SIZES))),),
    (
      "The paper prints no accuracies for other sizes than 2, and does not say for which data 2 is "
      "the best; ours is non-IID. Size 1 is IN.",
    ),
    settings.scale_notes(_LENET),
    figure="bars",
  ),
  Table(
    "004.norms",
    "Paper 004, app. I: weight and layer normalization for BN, LeNet on CIFAR-10, two partitions",
    tuple(cell for name, flags in _NORMS.items() for cell in _norm_cells(name, flags)),
    (
      Claim("on IID data WN needs a mean-only BN", rising("WN, IID", "WN with mean-only BN, IID")),
      Claim(
        "with a mean-only BN, WN loses on non-IID data",
        above(2.0, loss("WN with mean-only BN, non-IID")),
      ),
      Claim("on IID data BN is better than LN", rising("LN, IID", "BN, IID")),
      *(
        Claim(
          f"{name} does not depend on the partition (2 points)",
          alike(2.0, f"{name}, IID", f"{name}, non-IID"),
        )
        for name in ("WN", "LN")
      ),
    ),
    ("The paper prints no accuracies for these norms; the setting is that of its table 9.",),
    settings.scale_notes(_LENET),
    figure="bars",
  ),
  Table(
    "004.searches",
    "Paper 004, sec. 7.3: SkewScout's searches, GN-LeNet on CIFAR-10 with Gaia, 60% skew",
    (
      settings.cell("BSP", _LENET, {"norm": "gn", "fraction": 0.6}),
      *(_search_cell(name, flags) for name, flags in _SEARCHES.items()),
    ),
    tuple(
      claim
      for other in ("stochastic hill climbing", "annealing")
      for claim in (
        Claim(
          f"hill climbing is as accurate as {other} or better (1 point)",
          keeps(1.0, other, "hill climbing"),
        ),
        Claim(
          f"hill climbing sends less than {other}",
          times(1.0, Value(other, "bytes"), Value("hill climbing", "bytes")),
        ),
      )
    ),
    (
      'The paper says "the best results", without numbers; we read this as accuracy and bytes.',
      "The paper remembers the latest loss of each theta; the last cell tries a theta again after "
      "eight tests, as figure 8 does here.",
    ),
    settings.scale_notes(_LENET, " SkewScout measures the loss of accuracy every 64 minibatches."),
    figure="",
  ),
)
