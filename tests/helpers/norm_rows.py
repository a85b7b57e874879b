"""The norms as the tests see them: one row each, with an oracle of its own."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from flax import linen as nn

from fedjax_norm.norm import NormSpec, Renorm, create

EPSILON = 1e-5
_NOTHING: Mapping[str, Any] = MappingProxyType({})
RAMP = Renorm(r_max=3.0, d_max=5.0, start=10, r_end=30, d_end=20)


class Row(NamedTuple):
  """What is expected of a norm.

  Attributes:
    options: of ``create``, for a layer whose channels are a multiple of four.
    reduce: the axes that it reduces.
    groups: of 12 channels.
    oracle: flax's layer of the same training step, or None; a norm of the batch is that layer with
      the whole batch as one example.
    others: the fields of the spec that differ from their defaults.
  """

  options: Mapping[str, Any] = _NOTHING
  reduce: str = ""
  groups: int | None = None
  oracle: nn.Module | None = None
  others: Mapping[str, Any] = _NOTHING

  def spec(self, name: str, **more) -> NormSpec:
    """The spec of the row with this label."""
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
"""By label: a norm's name, and after a hyphen what is special about the row."""

SPECS = {label: row.spec(label) for label, row in ROWS.items()}
BATCH = [label for label, row in ROWS.items() if row.reduce == "NSK"]
WITHIN = [label for label, row in ROWS.items() if row.reduce in ("SK", "K")]
