"""All tables and figures of paper 004; defines figures 2, 3 and 18 to 20."""

from typing import Any

from fedjax_norm.papers import paper_004_remarks, paper_004_theta_sweeps
from fedjax_norm.papers import paper_004_settings as settings
from fedjax_norm.papers.paper_004_norms_and_skew import FIGURE_5, FIGURE_6, FIGURE_8, TABLE_9
from fedjax_norm.papers.paper_004_theta_sweeps import BSP, SWEEPS
from fedjax_norm.papers.tables import Cell, Claim, Table, loss
from fedjax_norm.study.verdicts import above, keeps, rising


def _keeps_accuracy(name: str, points: float = 2.0) -> Claim:
  return Claim(
    f"{name} keeps BSP's accuracy on IID data", keeps(points, "BSP, IID", f"{name}, IID")
  )


def _loses_accuracy(name: str, points: float) -> Claim:
  text = f"{name} loses more than {points:g} points on non-IID data"
  return Claim(text, above(points, loss(f"{name}, non-IID")))


_GAIA_AND_FEDAVG_CLAIMS = (
  *(_keeps_accuracy(name) for name in ("Gaia", "FedAvg")),
  *(_loses_accuracy(name, 2.0) for name in ("Gaia", "FedAvg")),
)

# Figures 2 and 20.

_GEO_LOSSES = {5: {"Gaia": 3.7, "FedAvg": 3.2}, 13: {"Gaia": 5.2, "FedAvg": 5.5}}
_GEO_NOTES = (
  settings.NOT_PRINTED,
  "This package does not include Flickr-Mammal: `full` reads `flickr_mammal.csv` in --data_dir, an "
  "index of your images and the countries where they were taken.",
)
_GEO_SETTINGS = {
  "small": "CIFAR-10 partitioned by Dirichlet draws of 0.5 instead of geotagged images, LeNet; "
  f"{settings.describe_small('flickr_5')} With 13 partitions there are 392 rounds.",
  "smoke": f"digits partitioned by Dirichlet draws of 0.5; {settings.SMOKE_NOTE}",
}


def _geo_cells(clients: int, prefix: str = "") -> tuple[Cell, ...]:
  def cell_values(name: str, column: str) -> dict[str, Any]:
    if column == "IID":
      return {}
    skewed = {"partition": "dirichlet", "alpha": 0.5}
    return {"loss": _GEO_LOSSES[clients].get(name), "small": skewed, "smoke": skewed}

  thetas = {name: settings.COMMON_THETAS[name] for name in ("Gaia", "FedAvg")}
  partitions = {
    **settings.PARTITIONS,
    "IID": settings.IID if clients == 13 else {**settings.IID, "region": None},
  }
  return settings.grid(f"flickr_{clients}", thetas, prefix, partitions, cell_values)


_FIGURE_2 = Table(
  "004.fig2",
  "Paper 004, figure 2: GoogLeNet on Flickr-Mammal (or a substitute) by continent",
  _geo_cells(5),
  _GAIA_AND_FEDAVG_CLAIMS,
  _GEO_NOTES,
  _GEO_SETTINGS,
  figure="bars",
)

_FIGURE_20 = Table(
  "004.fig20",
  "Paper 004, figure 20: Flickr-Mammal (or a substitute) by continent and by subcontinent",
  (*_geo_cells(5, "K = 5, "), *_geo_cells(13, "K = 13, ")),
  tuple(
    Claim(
      f"{name} loses more with 13 partitions than with 5",
      rising(loss(f"K = 5, {name}, non-IID"), loss(f"K = 13, {name}, non-IID")),
    )
    for name in ("Gaia", "FedAvg")
  ),
  _GEO_NOTES,
  _GEO_SETTINGS,
  figure="bars",
)

_FIGURE_3 = Table(
  "004.fig3",
  "Paper 004, figure 3: faces, two partitions",
  settings.grid(
    "face",
    {"Gaia": 0.2, "FedAvg": 50},
    cell_values=lambda name, column: {"top1": 50.0} if name != "BSP" and column != "IID" else {},
  ),
  _GAIA_AND_FEDAVG_CLAIMS,
  (
    "Accuracy is the share of image pairs that are correctly classified as one identity or two.",
    "The text prints only that Gaia and FedAvg are at chance (50%) on non-IID data.",
    "`full` reads the folders `train` and `test` in the folder `faces` of --data_dir.",
  ),
  {
    "small": settings.describe_small(
      "face", "40 generated identities to learn and 40 others to verify"
    ),
    "smoke": "generated identities for a few rounds, only to check that it runs.",
  },
  figure="bars",
)

_IMAGENET = {"Gaia": 0.4, "FedAvg": 200, "DGC": 4}
_IMAGENET_MODELS = {"googlenet": "GoogLeNet", "resnet10": "ResNet10"}


def _figure_18(model: str) -> Table:
  preset = f"imagenet_{model}"
  if model == "googlenet":
    text = "{} keeps BSP's accuracy on non-IID data"
    both = ("BSP", "DGC")
    claims = [Claim(text.format(n), keeps(2.0, "BSP, IID", f"{n}, non-IID")) for n in both]
  else:
    claims = [_loses_accuracy("BSP", 2.0), _loses_accuracy("DGC", 2.0)]
  return Table(
    f"004.fig18.{model}",
    f"Paper 004, figure 18: {_IMAGENET_MODELS[model]} on Tiny-ImageNet, two partitions",
    settings.grid(preset, _IMAGENET),
    (_loses_accuracy("Gaia", 2.0), _loses_accuracy("FedAvg", 2.0), *claims),
    (
      "Tiny-ImageNet replaces ImageNet, except at scale `smoke`.",
      "The text prints losses of 8.1 to 27.2 points for Gaia and FedAvg on non-IID data, up to "
      "61.7 for ResNet10, and that DGC keeps GoogLeNet's accuracy and cannot train ResNet10.",
    ),
    settings.scale_notes(preset, " The learning rate was not tuned."),
    figure="bars",
  )


# Figure 19.

_TEN: settings.Options = {"clients": 10}
_DOMINANT: settings.Options = {**_TEN, "partition": "dominant", "dominant_share": 0.8}
_RESNET20 = 6  # first of its columns in tables 6 to 8
# Number of partitions -> losses of Gaia and FedAvg relative to BSP on the same data.
_BELOW_BSP = {5: {"Gaia": 0.0, "FedAvg": 17.0}, 10: {"Gaia": 3.0, "FedAvg": 36.0}}


def _size_cells(clients: int) -> tuple[Cell, ...]:
  rows = {"BSP": BSP, **{s.algorithm: s.rows[s.chosen] for s in SWEEPS}}

  def cell_values(name: str, column: str) -> dict[str, Any]:
    reference = None if name == "BSP" else f"K = {clients}, BSP, {column}"
    values: dict[str, Any] = {"reference": reference}
    if clients == 5:
      values["top1"] = rows[name][_RESNET20 + list(settings.PARTITIONS).index(column)]
    if column == "non-IID":
      values["loss"] = _BELOW_BSP[clients].get(name)
    return values

  partitions = settings.PARTITIONS
  if clients == 10:
    partitions = {"IID": {**_TEN, **settings.IID}, "non-IID": _DOMINANT}
  thetas, prefix = settings.COMMON_THETAS, f"K = {clients}, "
  return settings.grid("cifar10_resnet20", thetas, prefix, partitions, cell_values)


_FIGURE_19 = Table(
  "004.fig19",
  "Paper 004, figure 19: ResNet20 on CIFAR-10 with five and ten partitions",
  (*_size_cells(5), *_size_cells(10)),
  tuple(
    Claim(
      f"on non-IID data {name} loses more over BSP with ten partitions than with five",
      rising(loss(f"K = 5, {name}, non-IID"), loss(f"K = 10, {name}, non-IID")),
    )
    for name in ("Gaia", "FedAvg")
  ),
  (
    "Losses are relative to BSP on the same data, as in the text for Gaia and FedAvg.",
    "With ten partitions, each has 80% of the images of one class and 20% of another.",
  ),
  settings.scale_notes("cifar10_resnet20"),
  figure="bars",
)

TABLES = (
  *paper_004_theta_sweeps.TABLES,
  *(TABLE_9, _FIGURE_2, _FIGURE_3, FIGURE_5, FIGURE_6, FIGURE_8),
  *(_figure_18(model) for model in _IMAGENET_MODELS),
  *(_FIGURE_19, _FIGURE_20),
  *paper_004_remarks.TABLES,
)
