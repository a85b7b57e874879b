"""The core grid of paper 002 (Zhong, Chen, Chao 2023) and its further questions, as tables.

The available text prints no accuracies and no settings, so that the tables ask its questions with
settings of ours, which are the same for all norms. The learning rate is chosen for each cell.
"""

import functools
import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fedjax_norm.papers.tables import HOW_TUNED, RATES, Cell, Claim, Table
from fedjax_norm.study.verdicts import differ, keeps, rising

Options = Mapping[str, Any]

_NORMS: Mapping[str, str] = {"BN": "bn", "GN": "gn", "FixBN": "fixbn"}
_MORE_NORMS: Mapping[str, str] = {"LN": "ln", "IN": "in", "WN": "wn"}
_STEPS = (1, 20, 100)
_NONE: Options = MappingProxyType({})
_NO_DIRICHLET: Options = {"alpha": None, "min_size": None}
_PARTITIONS: Mapping[str, Options] = {
  "IID": {"partition": "iid", **_NO_DIRICHLET},
  "Dirichlet 0.1": {},
  "two classes": {"partition": "classes", "classes_per_client": 2, **_NO_DIRICHLET},
}
_MODELS = {"resnet20": "ResNet-20", "lenet": "LeNet"}

# Model -> local steps of a client in a run, by scale. FixBN needs two rounds, and a trial has a
# quarter of a run: 800 steps in rounds of 100 are the fewest.
_LENGTHS = {
  "full": {"resnet20": 25_600, "lenet": 25_600, "resnet18": 25_600},
  "small": {"resnet20": 800, "lenet": 800, "resnet18": 400},
  "smoke": {"resnet20": 800, "lenet": 800, "resnet18": 200},
}
# A test has the operations of some 80 local steps of five clients with eight images.
_EVALUATIONS = {("small", "resnet20"): 4}
_SMALL: Mapping[str, Options] = {
  "resnet20": {"image_size": 16, "augment": "none", "batch_size": 8, "clients": 5},
  "lenet": {"image_size": 16, "augment": "none", "batch_size": 8},
  "resnet18": {"first_classes": 50, "stem": "imagenet", "batch_size": 8, "clients": 5},
}
_SMOKE: Options = {
  "data": "digits", "model": "tiny", "stem": None, "augment": "none", "batch_size": 4
}  # fmt: skip

_EXTREME = "1 step, two classes"
"""The setting with frequent averages and very different clients, in which the paper prefers GN."""

_NOTES = (
  "The available text prints neither accuracies nor settings; the settings are ours.",
  HOW_TUNED,
  "All cells clip gradients to a norm of 5 and have equally many local steps, and momentum starts "
  "anew in each round where the cell does not keep it.",
)
_SMOKE_NOTE = "the smallest network on digits for a few rounds, only to check that it runs."
_IMAGES = {
  "resnet20": "ResNet-20 on images of 16 pixels without augmentation",
  "lenet": "LeNet on images of 16 pixels without augmentation",
  "resnet18": "the first 50 of 200 classes, and ResNet-18 with the stem for ImageNet",
}
_SETTINGS = {
  model: {
    "small": f"{images}; {_SMALL[model].get('clients', 10)} clients with batches of 8; "
    f"{_LENGTHS['small'][model]:,} local steps instead of {_LENGTHS['full'][model]:,}.",
    "smoke": _SMOKE_NOTE,
  }
  for model, images in _IMAGES.items()
}


def _lengths(scale: str, model: str, steps: int) -> dict[str, Any]:
  rounds = _LENGTHS[scale][model] // steps
  return {"rounds": rounds, "eval_every": max(1, rounds // _EVALUATIONS.get((scale, model), 8))}


def _cell(
  label: str, model: str, norm: str, steps: int = 20, partition: Options = _NONE, **more: Any
) -> Cell:
  """Returns a cell; ``more`` are further flags."""
  options = {"model": model, "norm": norm, "local_steps": steps, **partition, **more}
  options |= _lengths("full", model, steps)
  scales = {
    "small": {**_SMALL[model], **_lengths("small", model, steps)},
    "smoke": {**_SMOKE, **_lengths("smoke", model, steps)},
  }
  return Cell(label, "fedavg_paper002", options, scales, rates=RATES)


def _grid(model: str) -> Table:
  """Returns the core grid of a model: norms, local steps and partitions."""
  settings = {
    f"{steps} step{'s' * (steps > 1)}, {column}": (steps, partition)
    for steps in _STEPS
    for column, partition in _PARTITIONS.items()
  }
  cells = tuple(
    _cell(f"{setting}, {name}", model, norm, steps, partition)
    for setting, (steps, partition) in settings.items()
    for name, norm in _NORMS.items()
  )
  return Table(
    f"002.grid.{model}",
    f"Paper 002: BN, GN and FixBN by local steps and partition, {_MODELS[model]} on CIFAR-10",
    cells,
    (
      *(
        Claim(f"{setting}: BN is better than GN", rising(f"{setting}, GN", f"{setting}, BN"))
        for setting in settings
        if setting != _EXTREME
      ),
      Claim(f"{_EXTREME}: GN is better than BN", rising(f"{_EXTREME}, BN", f"{_EXTREME}, GN")),
      *(
        Claim(
          f"{setting}: FixBN is better than {other}",
          rising(f"{setting}, {other}", f"{setting}, FixBN"),
        )
        for setting in settings
        for other in ("BN", "GN")
      ),
      *(
        Claim(
          f"FixBN is as good as {other} or better in all settings (1 point)",
          functools.reduce(
            operator.and_, (keeps(1.0, f"{one}, {other}", f"{one}, FixBN") for one in settings)
          ),
        )
        for other in ("BN", "GN")
      ),
    ),
    _NOTES,
    _SETTINGS[model],
    figure="bars",
  )


def _one_setting(name: str, title: str, cells: tuple[Cell, ...], *claims: Claim) -> Table:
  """Returns a table with LeNet in one setting: 20 local steps, Dirichlet 0.1."""
  return Table(
    f"002.{name}",
    f"Paper 002: {title}, LeNet on CIFAR-10, 20 local steps, Dirichlet 0.1",
    cells,
    claims,
    _NOTES,
    _SETTINGS["lenet"],
    figure="bars",
  )


_NORM_CELLS = tuple(_cell(name, "lenet", norm) for name, norm in {**_NORMS, **_MORE_NORMS}.items())
_MOMENTA: Mapping[str, Options] = {  # the preset starts momentum anew
  "reset": {}, "local": {"client_momentum": "local"}, "global": {"client_momentum": "global"},
}  # fmt: skip
_MOMENTUM_CELLS = tuple(
  _cell(f"{name}, {kind}", "lenet", norm, **momentum)
  for name, norm in _NORMS.items()
  for kind, momentum in _MOMENTA.items()
)
_FREEZES: Mapping[str, Options] = {  # the preset freezes after half of the rounds
  "T* = 25%": {"freeze_round": "25%"},
  "T* = 50%": {},
  "T* = 75%": {"freeze_round": "75%"},
  "T* = auto": {"freeze_round": "auto"},
}
_TINY_IMAGENET: Options = {"data": "tiny_imagenet", "stem": "cifar"}
_FREEZE_CELLS = tuple(
  _cell(label, "lenet", "fixbn", **freeze) for label, freeze in _FREEZES.items()
)

TABLES = (
  *map(_grid, _MODELS),
  Table(
    "002.tiny_imagenet",
    "Paper 002: BN, GN and FixBN, ResNet-18 on Tiny-ImageNet, 20 local steps, Dirichlet 0.1",
    tuple(_cell(name, "resnet18", norm, **_TINY_IMAGENET) for name, norm in _NORMS.items()),
    tuple(
      claim
      for name in ("BN", "GN")
      for claim in (
        Claim(f"FixBN is better than {name}", rising(name, "FixBN")),
        Claim(f"FixBN is as good as {name} or better (1 point)", keeps(1.0, name, "FixBN")),
      )
    ),
    (
      *_NOTES,
      "At scale `small`, of 400 local steps, our runs with GN are at the accuracy of guessing "
      "(2%), so that its claims say that it learns later, and nothing about a longer training.",
    ),
    _SETTINGS["resnet18"],
    figure="bars",
  ),
  _one_setting(
    "norms",
    "further norms",
    _NORM_CELLS,
    *(
      Claim(f"FixBN is better than {name}", rising(name, "FixBN"))
      for name in ("BN", "GN", *_MORE_NORMS)
    ),
    *(Claim(f"{name} is better than GN", rising("GN", name)) for name in _MORE_NORMS),
  ),
  _one_setting(
    "momentum",
    "momentum that is kept from round to round",
    _MOMENTUM_CELLS,
    *(
      Claim(
        f"{name}: {kind} momentum is better than none kept",
        rising(f"{name}, reset", f"{name}, {kind}"),
      )
      for name in _NORMS
      for kind in ("local", "global")
    ),
  ),
  _one_setting(
    "freeze",
    "FixBN by the round T* at which statistics freeze",
    _FREEZE_CELLS,
    Claim("T* matters: more than a point between two", differ(1.0, *_FREEZES)),
    Claim("auto is as good as the half or better (1 point)", keeps(1.0, "T* = 50%", "T* = auto")),
  ),
)
