"""Which norm suits which case: the question that paper 000 leaves for future work (sec. 7).

One quantity of a base case changes at a time: the model's width, the batch of a worker, the ratio R
by which the two workers' classes mix, or the size of the images. The learning rate is chosen for
each norm in each case. The paper has no values to compare with.
"""

from collections.abc import Mapping
from typing import Any

from fedjax_norm.papers.tables import HOW_TUNED, RATES, Cell, Claim, Table
from fedjax_norm.study.verdicts import best, rising

_NORMS = {"BN": "bn", "GN": "gn", "LN": "ln", "IN": "in", "CN": "cn"}

_EXAMPLES = {"full": 1_000_000, "small": 9_600, "smoke": 1_024}
"""Scale -> training images that each run sees; 1,000,000 are 20 passes over CIFAR-10."""

# Title of a case -> flags that differ from the base case.
_CASES: Mapping[str, Mapping[str, Any]] = {
  "base": {},
  "half as wide": {"model": "resnet20_narrow"},
  "twice as wide": {"model": "resnet20_wide"},
  "batch 4": {"batch_size": 4},
  "batch 64": {"batch_size": 64},
  "R = 0.1": {"ratio": 0.1},
  "R = 0.5": {"ratio": 0.5},
  "8 pixels": {"image_size": 8},
  "32 pixels": {"image_size": 32},
}
_GROUPS = {"resnet20_narrow": 4, "resnet20_wide": 16}
_BASE = {"model": "resnet20", "batch_size": 16, "image_size": 16, "ratio": 0.0}


def _cell(case: str, name: str, norm: str) -> Cell:
  flags = {**_BASE, **_CASES[case], "norm": norm}
  if norm == "gn":
    flags["groups"] = _GROUPS.get(flags["model"], 8)

  def lengths(scale: str) -> dict[str, Any]:
    rounds = _EXAMPLES[scale] // (2 * flags["batch_size"])
    return {"epochs": None, "rounds": rounds, "eval_every": max(1, rounds // 3)}

  options = {**flags, **lengths("full"), "augment": "none", "validation_share": 0.1}
  smoke = {"data": "digits", "image_size": max(8, flags["image_size"] // 2)}
  scales = {"small": lengths("small"), "smoke": {**smoke, **lengths("smoke")}}
  return Cell(f"{case}, {name}", "ssgd_paper000", options, scales, rates=RATES)


TABLES = (
  Table(
    "000.cases",
    "Paper 000, future work: norms by width, batch, skew and image size, ResNet-20 on CIFAR-10",
    tuple(_cell(case, *norm) for case in _CASES for norm in _NORMS.items()),
    (
      *(
        Claim(f"{case}: GN is better than local BN", rising(f"{case}, BN", f"{case}, GN"))
        for case in _CASES
      ),
      *(
        Claim(
          f"{case}: {name} is the best norm",
          best(*(f"{case}, {n}" for n in (name, *(other for other in _NORMS if other != name)))),
        )
        for case in _CASES
        for name in _NORMS
      ),
    ),
    (
      "The base case is ResNet-20 on images of 16 pixels, two workers without a common class "
      "(R = 0) and 16 images each in a step. All runs of a scale see equally many images.",
      HOW_TUNED,
      "GN has two channels a group in the first layers, whatever the width.",
      "That a norm is the best one is a comparison with four others, of which each has to hold.",
    ),
    {
      "small": "9,600 training images per run (0.2 epochs) instead of 1,000,000 (20 epochs).",
      "smoke": "digits for a few steps, only to check that it runs.",
    },
    figure="bars",
  ),
)
