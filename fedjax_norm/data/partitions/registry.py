"""How the training examples are divided over the clients: seeded functions of the labels.

Every partition uses each example exactly once and leaves no client empty, or is refused. Classes
are those that occur in the labels, in ascending order.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fedjax_norm.data.partitions import label_skew, size_skew
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option


class Partition(NamedTuple):
  """A division of N examples over K clients.

  Client k holds the examples `order[offsets[k] : offsets[k + 1]]`, in random order.

  Attributes:
    order: [N] int32, the ids of the examples, client after client.
    offsets: [K + 1] int64, from 0 to N.
  """

  order: np.ndarray
  offsets: np.ndarray


def sizes(partition: Partition) -> np.ndarray:
  """Counts the examples of each client: [K] int64."""
  return np.diff(partition.offsets)


def client(partition: Partition, k: int) -> np.ndarray:
  """Gives the ids of the examples of client k: [n_k] int32.

  Raises:
    UserError: there is no client k.
  """
  num_clients = len(partition.offsets) - 1
  if not 0 <= k < num_clients:
    raise UserError(f"There is no client {k}; the partition has clients 0 to {num_clients - 1}.")
  return partition.order[partition.offsets[k] : partition.offsets[k + 1]]


def owners(partition: Partition) -> np.ndarray:
  """Gives the client of each example, by example id: [N] int32."""
  result = np.empty(len(partition.order), np.int32)
  num_clients = len(partition.offsets) - 1
  result[partition.order] = np.repeat(np.arange(num_clients, dtype=np.int32), sizes(partition))
  return result


def counts(partition: Partition, labels: np.ndarray, num_classes: int) -> np.ndarray:
  """Counts the examples of each class that each client holds: [K, C] int64.

  Args:
    partition: of N examples.
    labels: [N] int, each in [0, num_classes).
    num_classes: C.

  Raises:
    UserError: the labels are not N, or one is out of range.
  """
  labels = np.asarray(labels)
  if labels.shape != partition.order.shape or labels.min() < 0 or labels.max() >= num_classes:
    raise UserError(
      f"Counting needs {len(partition.order)} labels from 0 to {num_classes - 1}; give the labels"
      " that were partitioned."
    )
  num_clients = len(partition.offsets) - 1
  cells = owners(partition).astype(np.int64) * num_classes + labels
  return np.bincount(cells, minlength=num_clients * num_classes).reshape(num_clients, num_classes)


_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
  "iid": size_skew.iid,
  "contiguous": size_skew.contiguous,
  "classes": label_skew.classes,
  "ratio": label_skew.ratio,
  "skew": label_skew.skew,
  "dominant": label_skew.dominant,
  "dirichlet": label_skew.dirichlet,
  "quantity": size_skew.quantity,
  "feature": size_skew.iid,
  "natural": size_skew.natural,
}

_COMMON = ("labels", "num_clients", "rng")

OPTIONS: dict[str, tuple[str, ...]] = {
  name: tuple(key for key in inspect.signature(function).parameters if key not in _COMMON)
  for name, function in _FUNCTIONS.items()
}
"""The options that each partition uses; `make` refuses any other."""

CLIENTS = 10
"""The number of clients of a run that does not say it, of data that names none."""

_DEFAULTS: dict[str, dict[str, Any]] = {
  name: {
    key: one.default
    for key, one in inspect.signature(function).parameters.items()
    if key in OPTIONS[name] and one.default is not None
  }
  for name, function in _FUNCTIONS.items()
}
# The options of a configuration that not every partition uses.
_DEPENDENT = tuple(
  dict.fromkeys(key for keys in OPTIONS.values() for key in keys if key != "clients")
)


@dataclasses.dataclass(frozen=True)
class PartitionConfig(Options):
  """How the training examples are divided over the clients."""

  group = "partition"

  clients: int | None = option(
    None,
    "The number of clients; by default 10, or all that the data names (--partition=natural).",
    least=1,
  )
  partition: str | None = option(
    None,
    "How the training examples are divided over the clients; by default natural where the data "
    "names clients, else classes.",
    choices=tuple(OPTIONS),
  )
  classes_per_client: int | None = option(
    None,
    "The number of classes that a client holds, for --partition=classes; by default the smallest "
    "number with which every class is held.",
  )
  ratio: float | None = option(
    None,
    "R of paper 000, for --partition=ratio: with 0 no two clients share a class, and with "
    "(clients - 1) / clients all have the same mix.",
  )
  fraction: float | None = option(
    None, "The share of the examples that is divided by label, for --partition=skew."
  )
  dominant_share: float | None = option(
    None, "The share of a client's main class, for --partition=dominant."
  )
  alpha: float | None = option(
    None, "The concentration, for --partition=dirichlet or quantity; small values are more skewed."
  )
  exponent: float | None = option(
    None, "The exponent of the power law of sizes, for --partition=quantity."
  )
  min_size: int | None = option(
    None, "The smallest number of examples of a client, for --partition=dirichlet or quantity."
  )
  relabelled: float | None = option(
    None,
    "The share of clients that give every class another label; the test set keeps its labels.",
    above=0,
    most=1,
  )

  def check(self) -> None:
    """Refuses options that the partition does not use."""
    used = OPTIONS[self.partition or "classes"]  # that of natural clients uses none of these
    for name in _DEPENDENT:
      if name not in used and getattr(self, name) is not None:
        able = " or ".join(other for other, options in OPTIONS.items() if name in options)
        raise UserError(
          f"--{name} does nothing here: it needs --partition={able}; drop it or add that."
        )


C = TypeVar("C", bound=PartitionConfig)


def resolve(config: C, labels: np.ndarray, owners: np.ndarray | None) -> C:
  """The configuration with the values in force in place of those that were not given.

  Args:
    config: the options.
    labels: [N] of the training examples.
    owners: [N] the client of each example, where the data names clients.

  Raises:
    UserError: natural clients of data that names none, or an option that would do nothing.
  """
  name = config.partition or ("classes" if owners is None else "natural")
  clients = CLIENTS
  if name == "natural":
    if owners is None:
      raise UserError(
        "--partition=natural needs data that names the client of each example, which this data does"
        " not; choose another partition."
      )
    clients = len(np.unique(owners))
  values: dict[str, Any] = {"partition": name, "clients": clients, **_DEFAULTS[name]}
  if name == "classes":
    values["classes_per_client"] = -(-len(np.unique(labels)) // (config.clients or clients))
  missing = {key: value for key, value in values.items() if getattr(config, key) is None}
  return dataclasses.replace(config, **missing)


def from_config(
  config: PartitionConfig, labels: np.ndarray, owners: np.ndarray | None, seed: int
) -> Partition:
  """Divides the training examples over the clients as the options say.

  Args:
    config: the options.
    labels: [N] of the examples.
    owners: [N] the client of each example, where the data names clients.
    seed: the only source of chance.

  Raises:
    UserError: as of :func:`resolve` and :func:`make`.
  """
  config = resolve(config, labels, owners)
  assert config.partition is not None
  options = {key: getattr(config, key) for key in _DEPENDENT if getattr(config, key) is not None}
  if config.partition == "natural":
    options["clients"] = owners
  return make(config.partition, labels, config.clients, seed, **options)


def make(
  name: str, labels: np.ndarray, num_clients: int | None, seed: int, **options: Any
) -> Partition:
  """Divides the examples over the clients.

  Args:
    name: a key of `OPTIONS`. `feature` is `iid` in its division: what differs between its clients
      is done to their images, by `augment.feature_shift`.
    labels: [N] int, the class of each example.
    num_clients: K; None or 0 for `natural` means as many as there are.
    seed: the only source of chance, at least 0.
    **options: those in `OPTIONS[name]`, explained where the partition is defined: the modules
      `label_skew` and `size_skew`.

  Raises:
    UserError: there is no such partition or option, a value is out of range, or the partition is
      impossible with these labels and clients.
  """
  if name not in _FUNCTIONS:
    raise UserError(f"There is no partition {name!r}; choose one of {', '.join(_FUNCTIONS)}.")
  unknown = sorted(set(options).difference(OPTIONS[name]))
  if unknown:
    used = ", ".join(OPTIONS[name]) or "none"
    raise UserError(
      f"The partition {name!r} does not use the option {unknown[0]!r}; remove it (it uses: {used})."
    )
  labels = np.asarray(labels)
  if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
    raise UserError("The labels to partition must be a non-empty list of integers from 0.")
  if not _is_int(seed) or seed < 0:
    raise UserError(f"The partition seed must be an integer of at least 0, not {seed!r}.")
  lowest = 1
  if name == "natural":
    lowest = 0
    num_clients = 0 if num_clients is None else num_clients
  if num_clients is None or not _is_int(num_clients) or num_clients < lowest:
    raise UserError(
      f"The number of clients must be an integer of at least {lowest}, not {num_clients!r}."
    )
  if num_clients > len(labels):
    raise UserError(
      f"{num_clients} clients cannot share {len(labels)} examples; use fewer clients."
    )
  rng = np.random.default_rng(seed)
  return _gather(name, _FUNCTIONS[name](labels, num_clients, rng, **options), num_clients, rng)


def _is_int(value: Any) -> bool:
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _gather(name: str, owner: np.ndarray, num_clients: int, rng: np.random.Generator) -> Partition:
  num_clients = num_clients or int(owner.max()) + 1
  held = np.bincount(owner, minlength=num_clients)
  if held.min() == 0:
    raise UserError(
      f"The partition {name!r} leaves client {held.argmin()} without examples; use fewer clients or"
      " a milder option."
    )
  shuffled = rng.permutation(len(owner))
  order = shuffled[np.argsort(owner[shuffled], kind="stable")].astype(np.int32)
  return Partition(order, np.concatenate([[0], np.cumsum(held)]).astype(np.int64))
