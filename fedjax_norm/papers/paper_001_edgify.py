"""Figures 2 to 5, table 1 and two remarks of paper 001 (Edgify)."""

from collections.abc import Mapping
from typing import Any

from fedjax_norm.papers.tables import Cell, Claim, Table
from fedjax_norm.study.verdicts import Contrast, Statement, alike, below, keeps, rising

Options = Mapping[str, Any]

_BATCHES = {"128": 16, "1k": 128, "2k": 256}
"""Joint batch of eight devices -> batch of a device."""

_WARMUP_EPOCHS = {"gn": 6, "fixup": 20}
_SMALL = {"model": "resnet10", "image_size": 16, "augment": "none"}
_SMOKE = {"data": "digits", "model": "tiny", "augment": "none"}


def _cell(label: str, preset: str, options: Options, small: Options, smoke: Options) -> Cell:
  """Returns a cell with its flags at the scales small and smoke."""
  # Fixup needs residual branches; ResNet-20 is the smallest network with them.
  network = {"model": "resnet20"} if "Fixup" in label else {}
  scales = {"small": {**_SMALL, **small}, "smoke": {**_SMOKE, **network, **smoke}}
  return Cell(label, preset, options, scales)


def _lengths(rounds: int, evaluations: int) -> Options:
  return {"epochs": None, "rounds": rounds, "eval_every": rounds // evaluations}


def _device_cell(label: str, norm: str, **options: Any) -> Cell:
  """Returns a cell of figure 2: ten devices."""
  small = {"batch_size": 8, "scale_lr_from": 320, **_lengths(240, 3)}
  smoke = {"batch_size": 4, **_lengths(2, 2)}
  return _cell(label, "ssgd_edgify", {"norm": norm, **options}, small, smoke)


def _large_cell(
  label: str, norm: str, device_batch: int, policy: str = "gn", **options: Any
) -> Cell:
  """Returns a cell of figures 3 and 4: eight devices, with the rate policy of GN or of Fixup."""
  # Scale small has two devices with a quarter of the batch: a sixteenth of the joint batch.
  batch_size = device_batch // 4
  rounds = 38_400 // (2 * batch_size)
  small = {"model": "resnet20", "clients": 2, "batch_size": batch_size, "lr": 0.1 / 16}
  small |= _lengths(rounds, 3)
  smoke = {"batch_size": 2, **_lengths(4, 2)}
  if policy == "gn":  # the preset states the learning rate for a joint batch of 128
    small["scale_lr_from"] = smoke["scale_lr_from"] = 8
  if device_batch > _BATCHES["128"]:
    epochs = _WARMUP_EPOCHS[policy]
    options["lr_warmup_epochs"] = epochs
    small |= {"lr_warmup_epochs": None, "lr_warmup_rounds": rounds * epochs // 100}
    smoke |= {"lr_warmup_epochs": None, "lr_warmup_rounds": 2}
    if policy == "fixup":
      options["lr_warmup_from"] = 0.01
      small["lr_warmup_from"] = 0.01 / 16
  options["batch_size"] = device_batch
  if norm != policy:  # the preset has the other norm
    options["norm"] = norm
  return _cell(label, f"ssgd_large_batch_{policy}", options, small, smoke)


def _average_cell(label: str, steps: int, **options: Any) -> Cell:
  """Returns a cell of figure 5: FedAvg with ``steps`` local steps."""
  small_steps = {10: 10, 150: 120}[steps]
  small = {"batch_size": 8, "lr": 0.025, "local_steps": small_steps}
  small |= {"rounds": 240 // small_steps, "eval_every": max(1, 80 // small_steps)}
  smoke = {"batch_size": 4, "local_steps": 1 + steps // 100, "rounds": 2, "eval_every": 1}
  return _cell(label, f"fedavg_edgify_{steps}", options, small, smoke)


_IID = {"partition": "iid", "classes_per_client": None}

_DEVICES = (
  _device_cell("IID BN", "bn", **_IID),
  _device_cell("non-IID BN", "bn"),
  _device_cell("non-IID GN", "gn"),
  _device_cell("non-IID Fixup", "fixup"),
  _device_cell("IID GN", "gn", **_IID),
  _device_cell("IID Fixup", "fixup", **_IID),
)


def _large_cells(name: str, norm: str, policy: str = "gn") -> tuple[Cell, ...]:
  return tuple(_large_cell(f"{name} {k}", norm, size, policy) for k, size in _BATCHES.items())


_LARGE_GN = _large_cells("GN", "gn")
_LARGE_FIXUP = _large_cells("Fixup", "fixup", "fixup")
_LARGE_OTHERS = (*_large_cells("LN", "ln"), *_large_cells("IN", "in"))
_EXCHANGED = tuple(
  _large_cell(f"{name} {k}, {other}'s rates", norm, _BATCHES[k], policy)
  for name, norm, other, policy in (("Fixup", "fixup", "GN", "gn"), ("GN", "gn", "Fixup", "fixup"))
  for k in ("1k", "2k")
)

_AVERAGES = (
  _average_cell("IID, every 10", 10, **_IID),
  _average_cell("IID, every 150", 150, **_IID),
  _average_cell("non-IID, every 10", 10),
  _average_cell("non-IID, every 150", 150),
)

_NO_FIGURES = (
  "The available text of the paper has the captions of its figures and of table 1 but no "
  "accuracies to compare with."
)
_NUMBERING = (
  "Figures are numbered as in their captions; the text calls figures 3 and 4 (large batches) 4 and "
  "5, and figure 5 (federated averaging) 3."
)
_EPOCHS = "All runs augment with crops and mirror images; the paper states no augmentation."
_LARGE_OPEN = (
  "The paper states neither the number of devices of the large batch nor the plateau rule. Ours: "
  "eight IID devices (128 is not divisible by ten); a tenth of the learning rate after ten epochs "
  "without a lower training loss. 1k and 2k are 1,024 and 2,048."
)

_SMALL_SETTING = "ResNet-10 on images of 16 pixels without augmentation; 19,200 training images, "
_SETTINGS = {
  "small": _SMALL_SETTING + "in 240 steps with a quarter of the paper's batch and learning rate.",
  "smoke": "the smallest network with the norm on digits for a few steps, to check that it runs.",
}
_LARGE_SETTINGS = {
  "small": "ResNet-20 on images of 16 pixels without augmentation; 38,400 training images, on two "
  "devices; joint batches (8, 64 and 128) and learning rates are a sixteenth of the paper's, "
  "warm-ups the same share of the run, too short for a plateau.",
  "smoke": _SETTINGS["smoke"],
}
_AVERAGE_SETTINGS = {
  "small": _SMALL_SETTING + "in 240 local steps of 8 images at a quarter of the paper's "
  'learning rate, averaged every 10 steps, or every 120 for "every 150".',
  "smoke": _SETTINGS["smoke"],
}

TABLES = (
  Table(
    "001.2",
    "Paper 001, figure 2: ten devices, IID or with two classes each",
    _DEVICES,
    (
      Claim("local BN on non-IID data is near chance (below 15%)", below(15.0, "non-IID BN")),
      Claim("non-IID GN is better than non-IID BN", rising("non-IID BN", "non-IID GN")),
      Claim("non-IID Fixup is better than non-IID BN", rising("non-IID BN", "non-IID Fixup")),
      Claim("non-IID GN is less than 5 points below IID BN", keeps(5.0, "IID BN", "non-IID GN")),
      Claim(
        "non-IID Fixup is less than 5 points below IID BN", keeps(5.0, "IID BN", "non-IID Fixup")
      ),
      Claim("non-IID GN is a bit lower than IID BN", rising("non-IID GN", "IID BN")),
      *(
        Claim(
          f"{name} does not depend on the distribution of the data (2 points)",
          alike(2.0, f"IID {name}", f"non-IID {name}"),
        )
        for name in ("GN", "Fixup")
      ),
    ),
    (
      _NO_FIGURES,
      'The paper says "random" and "similar"; we read "below 15%" and "less than 5 points below". '
      'It says that the distribution does not affect GN and Fixup; we read "within 2 points".',
      "The paper does not state the number of epochs; ours is 100. " + _EPOCHS,
    ),
    _SETTINGS,
    baseline="IID BN",
  ),
  Table(
    "001.3",
    "Paper 001, figure 3: large batches with GN",
    _LARGE_GN,
    (Claim("GN's accuracy falls with every larger batch", rising("GN 2k", "GN 1k", "GN 128")),),
    (_NO_FIGURES, _NUMBERING, _LARGE_OPEN, _EPOCHS),
    _LARGE_SETTINGS,
  ),
  Table(
    "001.4",
    "Paper 001, figure 4: large batches with Fixup",
    _LARGE_FIXUP,
    (
      Claim("Fixup loses less than 2 points from 128 to 2k", keeps(2.0, "Fixup 128", "Fixup 2k")),
      Claim("Fixup loses less than 2 points from 128 to 1k", keeps(2.0, "Fixup 128", "Fixup 1k")),
    ),
    (
      _NO_FIGURES,
      _NUMBERING,
      'The paper says "little loss of accuracy"; we read this as 2 points.',
      _LARGE_OPEN,
      _EPOCHS,
    ),
    _LARGE_SETTINGS,
  ),
  Table(
    "001.1",
    "Paper 001, table 1: large batches with GN and Fixup",
    (*_LARGE_GN, *_LARGE_FIXUP),
    (
      Claim(
        "from 128 to 2k Fixup loses less than GN",
        Statement((Contrast({"GN 128": 1, "GN 2k": -1, "Fixup 128": -1, "Fixup 2k": 1}),)),
      ),
      Claim("at 2k Fixup is better than GN", rising("GN 2k", "Fixup 2k")),
    ),
    (_NO_FIGURES, _LARGE_OPEN, _EPOCHS),
    _LARGE_SETTINGS,
    figure="",
  ),
  Table(
    "001.rates",
    "Paper 001, sec. on large batches: Fixup with GN's learning rates, and GN with Fixup's",
    (*_LARGE_GN[1:], *_LARGE_FIXUP[1:], *_EXCHANGED),
    (
      *(
        Claim(
          f"Fixup's gradients explode at {k} if the rate grows linearly with the batch",
          rising(f"Fixup {k}, GN's rates", f"Fixup {k}"),
          diverges=f"Fixup {k}, GN's rates",
        )
        for k in ("1k", "2k")
      ),
      *(
        Claim(
          f"GN at {k} is no different with Fixup's rates (2 points)",
          alike(2.0, f"GN {k}, Fixup's rates", f"GN {k}"),
        )
        for k in ("1k", "2k")
      ),
    ),
    (
      _NO_FIGURES,
      "The claim about exploding gradients is held if the run diverges, or else if it ends below "
      "Fixup with its own rates.",
      _LARGE_OPEN,
      _EPOCHS,
    ),
    _LARGE_SETTINGS,
  ),
  Table(
    "001.norms",
    "Paper 001, sec. on large batches: LN and IN",
    _LARGE_OTHERS,
    tuple(
      Claim(
        f"{name}'s accuracy falls with every larger batch",
        rising(f"{name} 2k", f"{name} 1k", f"{name} 128"),
      )
      for name in ("LN", "IN")
    ),
    (_NO_FIGURES, _LARGE_OPEN, _EPOCHS),
    _LARGE_SETTINGS,
  ),
  Table(
    "001.5",
    "Paper 001, figure 5: federated averaging with GN every 10 and every 150 batches",
    _AVERAGES,
    (
      Claim(
        "on non-IID data the accuracy falls with less frequent averaging",
        rising("non-IID, every 150", "non-IID, every 10"),
      ),
      Claim(
        "every 10 batches, IID data is better than non-IID data",
        rising("non-IID, every 10", "IID, every 10"),
      ),
      Claim(
        "every 150 batches, IID data is better than non-IID data",
        rising("non-IID, every 150", "IID, every 150"),
      ),
      Claim(
        "every 150 batches, devices learn only their local data (below 25%)",
        below(25.0, "non-IID, every 150"),
      ),
    ),
    (
      _NO_FIGURES,
      'The paper says "nearly 50%" for non-IID data every 10 batches, and that devices only learn '
      "their local data every 150; we read this as below 25% (two of the ten classes are 20%).",
      _NUMBERING,
      "The paper does not state the length of training; ours is 96 epochs. " + _EPOCHS,
    ),
    _AVERAGE_SETTINGS,
    baseline="IID, every 10",
  ),
)
