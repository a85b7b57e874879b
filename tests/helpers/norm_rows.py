"""A table of the norms for tests: their options, expected fields, and flax layers."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from fedjax_norm.norm import NormSpec, Renorm, create

EPSILON = 1e-5
_NONE: Mapping[str, Any] = MappingProxyType({})
RAMP = Renorm(r_max=3.0, d_max=5.0, start=10, r_end=30, d_end=20)


class Row(NamedTuple):
  """The expected properties of a norm.

  Attributes:
    options: options of ``create``, for a layer with a multiple of four channels.
    reduce: axes that the norm reduces.
    groups: number of groups of 12 channels.
    oracle: flax layer with the same training step, or None; for a norm across the batch, the layer
      gets the whole batch as one example.
    others: further fields of the spec that differ from their defaults.
  """

  options: Mapping[str, Any] = _NONE
  reduce: str = ""
  groups: int | None = None
  oracle: nn.Module | None = None
  others: Mapping[str, Any] = _NONE

  def spec(self, name: str, **more) -> NormSpec:
    """Returns the spec of the row with this label."""
    return create(name.partition("-")[0], **{**self.options, **more})


def _groups(number=None, size=None):
  return nn.GroupNorm(number, size, epsilon=EPSILON, use_fast_variance=False)


ROWS = {
  "bn": Row({}, "NSK", 12, _groups(size=1)),
  "sync_bn": Row({}, "NSK", 12, _groups(size=1), {"across_clients": True}),
  "fixbn": Row({}, "NSK", 12, _groups(size=1), {"freezes_statistics": True}),
  "brn": Row({"renorm": RAMP}, "NSK", 12, None, {"source": "corrected", "renorm": RAMP}),
  "bgn": Row({"groups": 2}, "NSK", 2, _groups(2)),
  "bgn-size": Row({"group_size": 2}, "NSK", 6, _groups(size=2)),
  "gn": Row({"groups": 2}, "SK", 2, _groups(2)),
  "gn-size": Row({"group_size": 2}, "SK", 6, _groups(size=2)),
  "ln": Row({}, "SK", 1, _groups(1)),
  "in": Row({}, "SK", 12, _groups(size=1)),
  "cn": Row({}, "K", 1, nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False)),
  "wn": Row(others={"weight_norm": True}),
  "wn-centred": Row({"mean_only_bn": True}, "NSK", 12, None, {"weight_norm": True, "scale": False}),
  "fixup": Row(others={"fixup": True}),
  "none": Row(),
}
"""The rows by label: the name of a norm, and a variant after a hyphen."""

SPECS = {label: row.spec(label) for label, row in ROWS.items()}
BATCH = [label for label, row in ROWS.items() if row.reduce == "NSK"]
WITHIN = [label for label, row in ROWS.items() if row.reduce in ("SK", "K")]


def bounds_at(step):
  """Returns (r_max, d_max) of RAMP."""
  return np.interp(step, [10, 30], [1, 3]), np.interp(step, [10, 20], [0, 5])
