"""The table of norms: over which axes each computes statistics, and which statistics it uses.

An activation [N, *S, C] (batch, spatial axes, channels) is viewed as [N, *S, G, K]: G groups of
K = C / G channels. Every norm is a :class:`NormSpec`; all run the same code (``normalize.py``).
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from fedjax_norm.errors import UserError


class Renorm(NamedTuple):
  """How the bounds r_max and d_max of batch renormalization rise (Ioffe 2017, sec. 3).

  Until ``start``, the bounds are 1 and 0, which is batch normalization; then they rise linearly.
  All times have the unit of ``Mode.step``: federated algorithms count rounds and fractions of
  rounds. The defaults are Ioffe's, in optimizer steps of a training with 130,000 steps.

  Attributes:
    r_max: final bound of the scale correction r, at least 1.
    d_max: final bound of the shift correction d, at least 0.
    start: time at which both bounds begin to rise.
    r_end: time at which r_max is reached.
    d_end: time at which d_max is reached.
  """

  r_max: float = 3.0
  d_max: float = 5.0
  start: float = 5_000
  r_end: float = 40_000
  d_end: float = 25_000


@dataclasses.dataclass(frozen=True)
class NormSpec:
  """The definition of a norm; invalid combinations of fields raise UserError.

  Attributes:
    name: name of the norm in messages.
    reduce: axes over which statistics are computed: ``'NSK'`` (across the batch), ``'SK'`` or
      ``'K'`` (within an example), or ``''`` for no normalization. N is the batch, S the spatial
      axes, K the channels of a group.
    groups: number of groups G of a layer (P in paper 000). If neither this nor ``group_size`` is
      given, the model that uses the norm chooses (see ``models.create``).
    group_size: number of channels K of a group, instead of ``groups``.
    source: statistics used in training: those of the ``'batch'``, the ``'running'`` statistics, or
      the batch ``'corrected'`` by the running statistics (batch renormalization).
    scale: whether to divide by the standard deviation; otherwise only the mean is subtracted.
    axis_names: names of the mapped axes of clients if ``across_clients``, set by :meth:`bind`.
    across_clients: whether the moments of the batch are merged over all clients (distributed BN).
    freezes_statistics: whether statistics are frozen in the last rounds (FixBN, paper 002).
    weight_norm: whether kernels are reparameterized as ``g v / |v|`` (Salimans and Kingma 2016).
    fixup: whether a ResNet has the initialization and biases of Fixup (Zhang et al. 2019).
    renorm: ramps of batch renormalization, only for the corrected source.
    decay: weight of the old value when running statistics are updated (1 - PyTorch's momentum).
    epsilon: constant added to the variance.
  """

  name: str
  reduce: Literal["", "K", "SK", "NSK"] = ""
  groups: int | None = None
  group_size: int | None = None
  source: Literal["batch", "running", "corrected"] = "batch"
  scale: bool = True
  axis_names: tuple[str, ...] = ()
  freezes_statistics: bool = False
  across_clients: bool = False
  weight_norm: bool = False
  fixup: bool = False
  renorm: Renorm | None = None
  decay: float = 0.9
  epsilon: float = 1e-5

  def __post_init__(self) -> None:
    if self.reduce not in ("", "K", "SK", "NSK"):
      raise UserError(
        f"norm {self.name!r} reduces {self.reduce!r}; choose '' (nothing), 'K', 'SK' or 'NSK'."
      )
    if self.groups is not None and self.group_size is not None:
      raise UserError(f"norm {self.name!r} takes groups or group_size, not both.")
    for field in ("groups", "group_size"):
      value = getattr(self, field)
      if value is not None and value < 1:
        raise UserError(f"{field} of norm {self.name!r} is {value}; it must be at least 1.")
    if "N" not in self.reduce and (self.axis_names or self.across_clients):
      raise UserError(
        f"norm {self.name!r} does not reduce the batch, so there is nothing to merge across clients"
        "; drop across_clients and axis_names."
      )
    if "N" not in self.reduce and (self.source != "batch" or self.freezes_statistics):
      raise UserError(
        f"norm {self.name!r} keeps no running statistics to normalize with or to freeze; use the "
        "source 'batch' without freezes_statistics."
      )
    if self.axis_names and not self.across_clients:
      raise UserError(f"norm {self.name!r} has axis_names but not across_clients; set both.")
    if (self.source == "corrected") != (self.renorm is not None):
      raise UserError("the source 'corrected' and the ramps renorm need each other; give both.")
    if self.renorm and not self.scale:
      raise UserError("batch renormalization divides by a standard deviation, so set scale=True.")
    if self.renorm and not (self.renorm.r_max >= 1 and self.renorm.d_max >= 0):
      raise UserError("batch renormalization needs r_max of at least 1 and d_max of at least 0.")
    if not 0 <= self.decay < 1 or self.epsilon < 0:
      raise UserError(
        f"norm {self.name!r} needs 0 <= decay < 1 and epsilon >= 0; "
        f"got {self.decay} and {self.epsilon}."
      )

  @property
  def normalizes(self) -> bool:
    """Whether activations are normalized."""
    return bool(self.reduce)

  @property
  def needs_groups(self) -> bool:
    """Whether ``groups`` or ``group_size`` must still be chosen."""
    return self.normalizes and self.groups is None and self.group_size is None

  @property
  def has_running_statistics(self) -> bool:
    """Whether the norm keeps running statistics for evaluation."""
    return "N" in self.reduce

  @property
  def updates_running_statistics(self) -> bool:
    """Whether the norm has running statistics that training updates (they are not frozen)."""
    return self.has_running_statistics and self.source != "running"

  def num_groups(self, channels: int) -> int:
    """Returns the number of groups G of a layer with this many channels.

    Raises:
      UserError: neither ``groups`` nor ``group_size`` is set, or it does not divide ``channels``.
    """
    if self.needs_groups:
      raise UserError(f"norm {self.name!r} has no groups yet; give it groups or group_size.")
    divisor = self.groups or self.group_size or 1
    if channels % divisor:
      what = f"{divisor} groups do" if self.groups else f"a group size of {divisor} does"
      raise UserError(
        f"{what} not divide a layer of {channels} channels; choose a value of --groups or "
        "--group_size that divides the channels of every layer."
      )
    return self.groups or channels // divisor

  def frozen(self) -> "NormSpec":
    """Returns a norm that trains with frozen running statistics (FixBN after its freeze).

    Raises:
      UserError: the norm has no running statistics.
    """
    if not self.has_running_statistics:
      raise UserError(f"norm {self.name!r} has no running statistics that could be frozen.")
    return dataclasses.replace(
      self, source="running", renorm=None, across_clients=False, axis_names=()
    )

  def bind(self, axis_names: tuple[str, ...]) -> "NormSpec":
    """Returns the norm with the names of the mapped axes of clients, if it merges over them.

    Raises:
      UserError: the norm merges moments over clients, but clients do not run on mapped axes.
    """
    if not self.across_clients:
      return self
    if not axis_names:
      raise UserError(
        f"norm {self.name!r} merges statistics across clients, so all of them must run in "
        "lock-step; use --backend=vmap, pmap or shard_map without --chunk."
      )
    return dataclasses.replace(self, axis_names=axis_names)


NORMS: Mapping[str, NormSpec] = MappingProxyType(
  {
    spec.name: spec
    for spec in (
      NormSpec("bn", "NSK", group_size=1),
      NormSpec("sync_bn", "NSK", group_size=1, across_clients=True),
      NormSpec("fixbn", "NSK", group_size=1, freezes_statistics=True),
      NormSpec("brn", "NSK", group_size=1, source="corrected", renorm=Renorm()),
      NormSpec("bgn", "NSK"),  # Summers and Dinneen 2020; Zhou et al. 2020
      NormSpec("gn", "SK"),
      NormSpec("ln", "SK", groups=1),
      NormSpec("in", "SK", group_size=1),
      NormSpec("cn", "K", groups=1),
      NormSpec("wn", weight_norm=True),
      NormSpec("fixup", fixup=True),
      NormSpec("none"),
    )
  }
)
"""The norms by name. For a row with axes but without groups, the user or the model chooses them."""

NAMES = tuple(NORMS)


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
  """Returns a norm of ``NORMS`` with chosen settings (see :class:`NormSpec`).

  Args:
    name: one of ``NAMES``.
    groups: number of groups of a layer, only for ``gn`` and ``bgn``.
    group_size: number of channels of a group, only for ``gn`` and ``bgn``.
    mean_only_bn: whether ``wn`` also subtracts the batch mean (Salimans and Kingma 2016, sec. 2.3).
    renorm: ramps of batch renormalization, only for ``brn``.
    decay: weight of the old value when running statistics are updated.
    epsilon: constant added to the variance.

  Raises:
    UserError: the name is unknown, or a setting does not belong to this norm.
  """
  if name not in NORMS:
    raise UserError(f"unknown norm {name!r}; choose one of {', '.join(NAMES)}.")
  spec = NORMS[name]
  chosen = {"groups": groups, "group_size": group_size, "renorm": renorm}
  fields: dict[str, Any] = {key: value for key, value in chosen.items() if value is not None}
  if ("groups" in fields or "group_size" in fields) and not spec.needs_groups:
    grouped = " or ".join(name for name, spec in NORMS.items() if spec.needs_groups)
    raise UserError(
      f"norm {name!r} has no groups to choose; drop groups and group_size or use {grouped}."
    )
  if renorm is not None and spec.renorm is None:
    raise UserError(f"norm {name!r} has no r_max and d_max; drop renorm or use norm 'brn'.")
  if mean_only_bn:
    if not spec.weight_norm:
      raise UserError(f"norm {name!r} has no mean-only BN; drop mean_only_bn or use norm 'wn'.")
    fields |= {"reduce": "NSK", "group_size": 1, "scale": False}
  return dataclasses.replace(spec, decay=decay, epsilon=epsilon, **fields)
