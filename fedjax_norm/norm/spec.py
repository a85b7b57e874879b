"""A normalization as a choice of axes: which ones it reduces, and where its statistics come from.

An activation x[N, *S, C] is read as x[N, *S, G, K] with K = C / G. Every normalization of the
papers is one :class:`NormSpec`; everything else is the same code (``apply.py``).
"""

import dataclasses
from typing import Any, Literal, NamedTuple

from fedjax_norm.errors import UserError

NAMES = ("bn", "sync_bn", "fixbn", "brn", "gn", "ln", "in", "cn", "wn", "fixup", "none")


class Renorm(NamedTuple):
  """The ramps of batch renormalization (Ioffe 2017, sec. 3): r_max and d_max over time.

  Both bounds stay at batch normalization's (1 and 0) until ``start``, then rise linearly. Times are
  in the unit of the ``step`` that the layer is given; FedAvg gives rounds and fractions of them.
  The defaults are Ioffe's optimizer steps, for a training of 130,000.

  Attributes:
    r_max: the final bound of the scale correction r, at least 1.
    d_max: the final bound of the shift correction d, at least 0.
    start: when the ramps begin.
    r_end: when r_max is reached.
    d_end: when d_max is reached.
  """

  r_max: float = 3.0
  d_max: float = 5.0
  start: float = 5_000
  r_end: float = 40_000
  d_end: float = 25_000


@dataclasses.dataclass(frozen=True)
class NormSpec:
  """What one normalization does; the rules of legality are checked when it is built.

  Attributes:
    name: what to call it in messages.
    reduce: the axes that are reduced: ``'NSK'`` (across the batch), ``'SK'`` or ``'K'`` (within an
      example), or ``''`` for no normalization. N is the batch, S the spatial axes, K the channels
      of a group.
    groups: the number of groups G (P in paper 000); exclusive with ``group_size``.
    group_size: the channels of a group K; 1 makes every channel a group.
    source: where training takes its statistics from: the ``'batch'``, the ``'running'`` statistics,
      or the batch ``'corrected'`` by the running ones (batch renormalization).
    scale: whether to divide by the standard deviation (a mean-only norm just centres).
    axis_names: mapped axes over which the batch's moments are merged (distributed BN).
    across_nodes: whether the moments are to be merged over all nodes; :meth:`bind` then names the
      axes.
    settles: whether a later phase freezes the statistics (FixBN, paper 002).
    weight_norm: whether kernels are reparameterized as g v / |v| (Salimans and Kingma 2016).
    fixup: whether a ResNet is initialized and biased as Fixup says (Zhang et al. 2019).
    renorm: the ramps of batch renormalization, for the corrected source.
    decay: what a running statistic keeps of its old value (PyTorch's momentum is 1 - decay).
    epsilon: what is added to the variance.
  """

  name: str
  reduce: Literal["", "K", "SK", "NSK"] = ""
  groups: int | None = None
  group_size: int | None = None
  source: Literal["batch", "running", "corrected"] = "batch"
  scale: bool = True
  axis_names: tuple[str, ...] = ()
  settles: bool = False
  across_nodes: bool = False
  weight_norm: bool = False
  fixup: bool = False
  renorm: Renorm | None = None
  decay: float = 0.9
  epsilon: float = 1e-5

  def __post_init__(self):
    if self.reduce not in ("", "K", "SK", "NSK"):
      raise UserError(
        f"norm {self.name!r} reduces {self.reduce!r}; choose '' (nothing), 'K', 'SK' or 'NSK'."
      )
    if self.reduce and (self.groups is None) == (self.group_size is None):
      raise UserError(f"norm {self.name!r} needs either groups or group_size, not both.")
    for field in ("groups", "group_size"):
      value = getattr(self, field)
      if value is not None and value < 1:
        raise UserError(f"{field} of norm {self.name!r} is {value}; it must be at least 1.")
    if "N" not in self.reduce and (self.axis_names or self.across_nodes):
      raise UserError(
        f"norm {self.name!r} does not reduce the batch, so there is nothing to merge across nodes."
      )
    if "N" not in self.reduce and self.source != "batch":
      raise UserError(f"norm {self.name!r} keeps no running statistics to take its source from.")
    if (self.source == "corrected") != (self.renorm is not None):
      raise UserError("batch renormalization needs the corrected source and its ramps together.")
    if self.renorm and not (self.renorm.r_max >= 1 and self.renorm.d_max >= 0):
      raise UserError("batch renormalization needs r_max of at least 1 and d_max of at least 0.")
    if not 0 <= self.decay < 1 or self.epsilon < 0:
      raise UserError(
        f"norm {self.name!r} needs 0 <= decay < 1 and epsilon >= 0; "
        f"got {self.decay} and {self.epsilon}."
      )

  @property
  def normalizes(self) -> bool:
    """Whether activations are normalized at all."""
    return bool(self.reduce)

  @property
  def has_running_statistics(self) -> bool:
    """Whether the norm keeps averaged statistics for evaluation."""
    return "N" in self.reduce

  @property
  def updates_running_statistics(self) -> bool:
    """Whether training moves the running statistics (not once they are frozen)."""
    return self.has_running_statistics and self.source != "running"

  def num_groups(self, channels: int) -> int:
    """G for a layer of this many channels.

    Raises:
      UserError: the groups do not divide the channels.
    """
    if self.groups is not None:
      if channels % self.groups:
        raise UserError(
          f"{self.groups} groups do not divide a layer of {channels} channels; "
          "choose --groups (or --group_size) that divides every layer."
        )
      return self.groups
    assert self.group_size is not None
    if channels % self.group_size:
      raise UserError(
        f"a group size of {self.group_size} does not divide a layer of {channels} channels; "
        "choose --group_size (or --groups) that divides every layer."
      )
    return channels // self.group_size

  def frozen(self) -> "NormSpec":
    """The spec that normalizes with the frozen running statistics (FixBN's second stage).

    Raises:
      UserError: the norm has no running statistics.
    """
    if not self.has_running_statistics:
      raise UserError(f"norm {self.name!r} has no running statistics that could be frozen.")
    return dataclasses.replace(
      self, source="running", renorm=None, across_nodes=False, axis_names=()
    )

  def bind(self, axis_names: tuple[str, ...]) -> "NormSpec":
    """Merges the moments over these mapped axes, for a norm that looks across nodes."""
    if not self.across_nodes:
      return self
    if not axis_names:
      raise UserError(
        f"norm {self.name!r} merges statistics across nodes, so all nodes must run in lock-step; "
        "use --backend=vmap, pmap or shard_map without --chunk."
      )
    return dataclasses.replace(self, axis_names=axis_names)


def create(
  name: str,
  *,
  groups: int | None = None,
  group_size: int | None = None,
  mean_only_bn: bool = False,
  renorm: Renorm | None = None,
  decay: float = 0.9,
  epsilon: float = 1e-5,
) -> NormSpec:
  """The spec of a norm by its name.

  Args:
    name: one of ``NAMES``.
    groups: the number of groups, for ``gn`` (P in paper 000).
    group_size: the channels of a group, for ``gn``.
    mean_only_bn: whether ``wn`` also centres with mean-only BN (Salimans and Kingma 2016, sec.
      2.3).
    renorm: the ramps of ``brn``.
    decay: of running statistics, the weight of the old value.
    epsilon: added to the variance.

  Raises:
    UserError: an unknown name, or an option that this norm does not have.
  """
  if name not in NAMES:
    raise UserError(f"unknown norm {name!r}; choose one of {', '.join(NAMES)}.")
  if name != "gn" and (groups is not None or group_size is not None):
    raise UserError(f"norm {name!r} has no groups to choose; drop groups and group_size or use gn.")
  if name == "gn" and groups is None and group_size is None:
    raise UserError("gn needs its number of groups or its group size.")
  if name == "gn" and groups is not None and group_size is not None:
    raise UserError("gn takes groups or group_size, not both.")
  if mean_only_bn and name != "wn":
    raise UserError(f"mean-only BN belongs to norm 'wn', not to {name!r}.")
  if renorm is not None and name != "brn":
    raise UserError(f"the ramps r_max and d_max belong to norm 'brn', not to {name!r}.")

  def batch(**fields: Any) -> NormSpec:
    return NormSpec(name, "NSK", group_size=1, decay=decay, epsilon=epsilon, **fields)

  match name:
    case "bn":
      return batch()
    case "sync_bn":
      return batch(across_nodes=True)
    case "fixbn":
      return batch(settles=True)
    case "brn":
      return batch(source="corrected", renorm=renorm or Renorm())
    case "gn":
      return NormSpec(name, "SK", groups=groups, group_size=group_size, epsilon=epsilon)
    case "ln":
      return NormSpec(name, "SK", groups=1, epsilon=epsilon)
    case "in":
      return NormSpec(name, "SK", group_size=1, epsilon=epsilon)
    case "cn":
      return NormSpec(name, "K", groups=1, epsilon=epsilon)
    case "wn":
      return (
        batch(scale=False, weight_norm=True) if mean_only_bn else NormSpec(name, weight_norm=True)
      )
    case "fixup":
      return NormSpec(name, fixup=True)
    case _:
      return NormSpec(name)
