"""Figures 2, 3 and 18 to 20 of paper 004 as data, and all of its tables and figures."""

from typing import Any

from fedjax_norm.papers import paper_004_cells as cells
from fedjax_norm.papers import paper_004_thetas
from fedjax_norm.papers.paper_004_lenet import FIGURE_5, FIGURE_6, FIGURE_8, TABLE_9
from fedjax_norm.papers.paper_004_thetas import BSP, SWEEPS
from fedjax_norm.papers.tables import Cell, Claim, Table, least, near, rising


def _keeps(name: str, points: float = 2.0) -> Claim:
  return Claim(
    f"{name} keeps BSP's accuracy on IID data", (f"{name}, IID", "BSP, IID"), near(points)
  )


def _loses(name: str, points: float) -> Claim:
  text = f"{name} loses more than {points:g} points on non-IID data"
  return Claim(text, (f"{name}, non-IID",), least(points), "loss")


# Figures 2 and 20.

_GEO_LOSSES = {5: {"Gaia": 3.7, "FedAvg": 3.2}, 13: {"Gaia": 5.2, "FedAvg": 5.5}}
_GEO_NOTES = (
  cells.NOT_PRINTED,
  "Flickr-Mammal cannot be had with this package: `full` looks for `flickr_mammal.csv`, an index "
  "of your own pictures with their countries, below --data_dir.",
)
_GEO_SETTINGS = {
  "small": "a stand-in, for there are no geotagged pictures here: CIFAR-10 divided by Dirichlet "
  f"draws of 0.5, LeNet; {cells.small_words('flickr_5')} With 13 partitions they are 392.",
  "smoke": f"a stand-in: digits by Dirichlet draws of 0.5; {cells.SMOKE}",
}


def _geo_cells(clients: int, prefix: str = "") -> tuple[Cell, ...]:
  def printed(name: str, column: str) -> dict[str, Any]:
    if column == "IID":
      return {}
    skewed = {"partition": "dirichlet", "alpha": 0.5}
    return {"loss": _GEO_LOSSES[clients].get(name), "small": skewed, "smoke": skewed}

  thetas = {name: cells.MATCHED[name] for name in ("Gaia", "FedAvg")}
  partitions = {
    **cells.PARTITIONS,
    "IID": cells.IID if clients == 13 else {**cells.IID, "region": None},
  }
  return cells.grid(f"flickr_{clients}", thetas, prefix, partitions, printed)


_FIGURE_2 = Table(
  "004.fig2",
  "Paper 004, figure 2: GoogLeNet on Flickr-Mammal (or a stand-in) by continent",
  _geo_cells(5),
  (_keeps("Gaia"), _keeps("FedAvg"), _loses("Gaia", 2.0), _loses("FedAvg", 2.0)),
  _GEO_NOTES,
  _GEO_SETTINGS,
  figure="bars",
)

_FIGURE_20 = Table(
  "004.fig20",
  "Paper 004, figure 20: Flickr-Mammal (or a stand-in) by continent and by subcontinent",
  (*_geo_cells(5, "K = 5, "), *_geo_cells(13, "K = 13, ")),
  tuple(
    Claim(
      f"{name} loses more with 13 partitions than with 5",
      (f"K = 5, {name}, non-IID", f"K = 13, {name}, non-IID"),
      rising,
      "loss",
    )
    for name in ("Gaia", "FedAvg")
  ),
  _GEO_NOTES,
  _GEO_SETTINGS,
  figure="bars",
)


# Figure 3.

_FIGURE_3 = Table(
  "004.fig3",
  "Paper 004, figure 3: faces, two partitions",
  cells.grid(
    "face",
    {"Gaia": 0.2, "FedAvg": 50},
    printed=lambda name, column: {"top1": 50.0} if name != "BSP" and column != "IID" else {},
  ),
  (_keeps("Gaia"), _keeps("FedAvg"), _loses("Gaia", 2.0), _loses("FedAvg", 2.0)),
  (
    "Accuracies are those of telling pairs of the same and of different identities apart.",
    "The text prints that Gaia and FedAvg guess (50%) on non-IID data, and nothing else.",
    "`full` looks for the folder `faces` below --data_dir, with `train` and `test`.",
  ),
  {
    "small": cells.small_words("face", "40 generated identities to learn and 40 others to verify"),
    "smoke": "generated identities, a few rounds: only that it runs.",
  },
  figure="bars",
)


# Figure 18.

_IMAGENET = {"Gaia": 0.4, "FedAvg": 200, "DGC": 4}
_IMAGENET_MODELS = {"googlenet": "GoogLeNet", "resnet10": "ResNet10"}


def _figure_18(model: str) -> Table:
  preset = f"imagenet_{model}"
  if model == "googlenet":
    text = "{} keeps BSP's accuracy on non-IID data"
    both = ("BSP", "DGC")
    kept = [Claim(text.format(n), (f"{n}, non-IID", "BSP, IID"), near(2.0)) for n in both]
  else:
    kept = [_loses("BSP", 2.0), _loses("DGC", 2.0)]
  return Table(
    f"004.fig18.{model}",
    f"Paper 004, figure 18: {_IMAGENET_MODELS[model]} on Tiny-ImageNet, two partitions",
    cells.grid(preset, _IMAGENET),
    (_loses("Gaia", 2.0), _loses("FedAvg", 2.0), *kept),
    (
      "Tiny-ImageNet stands in for ImageNet at every scale but `smoke`.",
      "The text prints losses of 8.1 to 27.2 points for Gaia and FedAvg on non-IID data, of up to "
      "61.7 for ResNet10, and that DGC keeps GoogLeNet's accuracy and cannot train ResNet10.",
    ),
    {"small": f"{cells.small_words(preset)} The rate was not tuned.", "smoke": cells.SMOKE},
    figure="bars",
  )


# Figure 19.

_TEN: cells.Options = {"clients": 10}
_DOMINANT: cells.Options = {**_TEN, "partition": "dominant", "dominant_share": 0.8}
_RESNET20 = 6  # where its columns begin in tables 6 to 8
# Of Gaia and FedAvg, relative to BSP on the same data.
_BELOW_BSP = {5: {"Gaia": 0.0, "FedAvg": 17.0}, 10: {"Gaia": 3.0, "FedAvg": 36.0}}


def _size_cells(clients: int) -> tuple[Cell, ...]:
  rows = {"BSP": BSP, **{s.algorithm: s.rows[s.chosen] for s in SWEEPS}}

  def printed(name: str, column: str) -> dict[str, Any]:
    told: dict[str, Any] = {"base": None if name == "BSP" else f"K = {clients}, BSP, {column}"}
    if clients == 5:
      told["top1"] = rows[name][_RESNET20 + list(cells.PARTITIONS).index(column)]
    if column == "non-IID":
      told["loss"] = _BELOW_BSP[clients].get(name)
    return told

  partitions = (
    {"IID": {**_TEN, **cells.IID}, "non-IID": _DOMINANT} if clients == 10 else cells.PARTITIONS
  )
  return cells.grid("cifar10_resnet20", cells.MATCHED, f"K = {clients}, ", partitions, printed)


_FIGURE_19 = Table(
  "004.fig19",
  "Paper 004, figure 19: ResNet20 on CIFAR-10 with five and ten partitions",
  (*_size_cells(5), *_size_cells(10)),
  tuple(
    Claim(
      f"on non-IID data {name} loses more over BSP with ten partitions than with five",
      (f"K = 5, {name}, non-IID", f"K = 10, {name}, non-IID"),
      rising,
      "loss",
    )
    for name in ("Gaia", "FedAvg")
  ),
  (
    "Losses are those over BSP on the same data, as the text has them for Gaia and FedAvg.",
    "Of ten partitions each has 80% of one class and 20% of another.",
  ),
  {"small": cells.small_words("cifar10_resnet20"), "smoke": cells.SMOKE},
  figure="bars",
)

TABLES = (
  *paper_004_thetas.TABLES,
  *(TABLE_9, _FIGURE_2, _FIGURE_3, FIGURE_5, FIGURE_6, FIGURE_8),
  *(_figure_18(model) for model in _IMAGENET_MODELS),
  *(_FIGURE_19, _FIGURE_20),
)
