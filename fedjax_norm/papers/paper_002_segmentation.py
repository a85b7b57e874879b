"""The segmentation of paper 002 (Zhong, Chen, Chao 2023): BN, GN and FixBN on Cityscapes."""

from fedjax_norm.papers.tables import HOW_TUNED, RATES, Cell, Claim, Table
from fedjax_norm.study.verdicts import rising

_DIGITS = {
  "data": "digits",
  "image_size": None,
  "clients": 10,
  "partition": "dirichlet",
  "alpha": 0.1,
  "local_epochs": None,
  "local_steps": 5,
}
_TUNED = {"validation_share": 0.1}
_SCALES = {
  "small": {**_DIGITS, "rounds": 200, "eval_every": 50},
  "smoke": {**_DIGITS, "rounds": 8, "eval_every": 2},
}
_PIXELS = "the same network on the inked pixels of digits, ten clients with Dirichlet 0.1 and"

TABLES = (
  Table(
    "002.segmentation",
    "Paper 002: BN, GN and FixBN, segmentation of Cityscapes by city, mean IoU",
    tuple(
      Cell(name, "fedavg_cityscapes", {"norm": norm, **_TUNED}, _SCALES, rates=RATES)
      for name, norm in (("BN", "bn"), ("GN", "gn"), ("FixBN", "fixbn"))
    ),
    tuple(Claim(f"FixBN is better than {name}", rising(name, "FixBN")) for name in ("BN", "GN")),
    (
      "The available text prints neither mean IoUs nor settings. The settings are ours, and all "
      "cells have the same, but for the learning rate; the network is a small FCN.",
      HOW_TUNED,
    ),
    {
      "small": f"{_PIXELS} five local steps, for 200 rounds; Cityscapes was not available.",
      "smoke": f"{_PIXELS} five local steps, for eight rounds, only to check that it runs.",
    },
    measures=("mean_iou", "pixel_accuracy"),
  ),
)
