"""Divides the training examples over the clients, by a seed and the labels.

Every partition uses each example exactly once and gives every client at least one, or raises an
error. Classes are those that occur in the labels, in ascending order.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fedjax_norm.data.partitions import classes_per_client, label_skew, size_skew
from fedjax_norm.data.partitions.dealing import group_by_class
from fedjax_norm.data.partitions.value_checks import is_integer
from fedjax_norm.errors import UnusedOptionError, UserError
from fedjax_norm.options import Options, option


class Partition(NamedTuple):
  """A division of N examples over K clients.

  Client k has the examples `order[offsets[k] : offsets[k + 1]]`, in random order.

  Attributes:
    order: [N] int32, the ids of the examples, client after client.
    offsets: [K + 1] int64, from 0 to N.
  """

  order: np.ndarray
  offsets: np.ndarray


def sizes(partition: Partition) -> np.ndarray:
  """Returns the number of examples of each client: [K] int64."""
  return np.diff(partition.offsets)


def client(partition: Partition, k: int) -> np.ndarray:
  """Returns the ids of the examples of client k: [n_k] int32.

  Raises:
    UserError: the client does not exist.
  """
  num_clients = len(partition.offsets) - 1
  if not 0 <= k < num_clients:
    raise UserError(f"There is no client {k}; the partition has clients 0 to {num_clients - 1}.")
  return partition.order[partition.offsets[k] : partition.offsets[k + 1]]


def owners(partition: Partition) -> np.ndarray:
  """Returns the client of each example, by example id: [N] int32."""
  result = np.empty(len(partition.order), np.int32)
  num_clients = len(partition.offsets) - 1
  result[partition.order] = np.repeat(np.arange(num_clients, dtype=np.int32), sizes(partition))
  return result


def counts(partition: Partition, labels: np.ndarray, num_classes: int) -> np.ndarray:
  """Returns the number of each client's examples of each class: [K, C] int64.

  The ``labels`` [N] of the N examples are integers in [0, num_classes).

  Raises:
    UserError: there are not N labels, or one is out of range.
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
  "classes": classes_per_client.classes,
  "random_classes": classes_per_client.random_classes,
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
"""The options that each partition uses; `make` rejects any other."""

CLIENTS = 10
"""The default number of clients if the data has no natural clients."""

_DEFAULTS: dict[str, dict[str, Any]] = {
  name: {
    key: one.default
    for key, one in inspect.signature(function).parameters.items()
    if key in OPTIONS[name] and one.default is not None
  }
  for name, function in _FUNCTIONS.items()
}
# The options that only some partitions use.
_SPECIFIC = tuple(
  dict.fromkeys(key for keys in OPTIONS.values() for key in keys if key != "clients")
)


@dataclasses.dataclass(frozen=True)
class PartitionConfig(Options):
  """Options of the division of the training examples over the clients."""

  group = "partition"

  clients: int | None = option(
    None,
    "Number of clients; by default 10, or all clients that the data names (--partition=natural).",
    least=1,
  )
  partition: str | None = option(
    None,
    "How the training examples are divided over the clients; by default natural if the data names "
    "clients, otherwise classes.",
    choices=tuple(OPTIONS),
  )
  classes_per_client: int | None = option(
    None,
    "Number of classes of each client, for --partition=classes (by default the smallest number "
    "with which every class belongs to a client) or random_classes (2 by default).",
  )
  ratio: float | None = option(
    None,
    "Mixing ratio R of paper 000, for --partition=ratio: with 0 (the default) no two clients share "
    "a class, with (clients - 1) / clients all have the same mix.",
  )
  fraction: float | None = option(
    None,
    "Share of the examples that is divided by label instead of at random, for --partition=skew "
    "(paper 004, sec. 3); 1 by default.",
  )
  dominant_share: float | None = option(
    None,
    "Share of each class that goes to the clients with mostly this class, for --partition=dominant "
    "(paper 004, app. F); 0.8 by default.",
  )
  alpha: float | None = option(
    None,
    "Concentration of the Dirichlet distribution, for --partition=dirichlet (0.5 by default) or "
    "quantity (instead of --exponent); clients differ more with smaller values.",
  )
  exponent: float | None = option(
    None,
    "Exponent a of the power law of the clients' sizes, 1 / rank^a, for --partition=quantity; 1 by "
    "default.",
  )
  min_size: int | None = option(
    None,
    "Smallest number of examples of a client, for --partition=dirichlet or quantity; 1 by default.",
  )
  cap_sizes: bool | None = option(
    None,
    "Whether a client with at least an equal share of all examples gets none of the classes that "
    "are divided after that, for --partition=dirichlet (NIID-Bench); by default no.",
  )
  correlation: float | None = option(
    None,
    "Correlation between neighbouring clients' gamma variables, whose shares are the class sizes, "
    "for --partition=dirichlet (paper 004, app. K); 1 gives neighbours equal shares of each class.",
  )
  neighbours: int | None = option(
    None,
    "Number of clients in a neighbourhood, 2 by default: clients 0 and 1, 2 and 3, and so on.",
    needs="correlation",
  )
  relabelled: float | None = option(
    None,
    "Share of the clients that replace the label of every class by another class (paper 004, "
    "app. K); the test set keeps its labels. By default no client does.",
    above=0,
    most=1,
  )

  def check(self) -> None:
    """Raises UserError for an option that the partition does not use."""
    used = OPTIONS[self.partition or "classes"]  # natural uses none of these options
    for name in _SPECIFIC:
      if name not in used and getattr(self, name) is not None:
        able = " or ".join(other for other, options in OPTIONS.items() if name in options)
        raise UnusedOptionError(name, f"--partition={able}")


C = TypeVar("C", bound=PartitionConfig)


def resolve(config: C, labels: np.ndarray, owners: np.ndarray | None) -> C:
  """Returns the options, with defaults for those of the partition that were not given.

  Args:
    config: the options.
    labels: [N] labels of the training examples.
    owners: [N] natural client of each example; None if the data names no clients.

  Raises:
    UserError: the partition is natural but the data names no clients, or an option does nothing
      with this partition.
  """
  name = config.partition or ("classes" if owners is None else "natural")
  clients = CLIENTS
  if name == "natural":
    if owners is None:
      raise UserError(
        "--partition=natural needs data that names the client of each example, unlike this data;"
        " choose another partition."
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
  """Divides the training examples over the clients by the options.

  ``seed`` is the seed of the partition; the other arguments are those of :func:`resolve`, and the
  errors those of :func:`resolve` and :func:`make`.
  """
  config = resolve(config, labels, owners)
  assert config.partition is not None
  options = {key: getattr(config, key) for key in _SPECIFIC if getattr(config, key) is not None}
  if config.partition == "natural":
    options["clients"] = owners
  return make(config.partition, labels, config.clients, seed, **options)


def make(
  name: str, labels: np.ndarray, num_clients: int | None, seed: int, **options: Any
) -> Partition:
  """Divides the examples over the clients.

  Args:
    name: a key of `OPTIONS`. `feature` divides like `iid`; `augment.feature_shift` then makes the
      clients' images differ.
    labels: [N] int, the class of each example.
    num_clients: K; None or 0 for `natural` means all natural clients.
    seed: seed of the partition, at least 0.
    **options: options in `OPTIONS[name]`, documented in the modules `classes_per_client`,
      `label_skew` and `size_skew`.

  Raises:
    UserError: the partition or an option is unknown, a value is out of range, or the partition is
      impossible with these labels and clients, such as if a client gets no example.
  """
  if name not in _FUNCTIONS:
    raise UserError(f"There is no partition {name!r}; choose one of {', '.join(_FUNCTIONS)}.")
  unknown = sorted(set(options).difference(OPTIONS[name]))
  if unknown:
    used = ", ".join(OPTIONS[name]) or "none"
    raise UserError(
      f"The partition {name!r} does not use the option {unknown[0]!r}; remove this option"
      f" (options of the partition: {used})."
    )
  labels = np.asarray(labels)
  if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
    raise UserError("The labels to partition must be a non-empty list of integers from 0.")
  if not is_integer(seed) or seed < 0:
    raise UserError(f"The partition seed must be an integer of at least 0, not {seed!r}.")
  lowest = 0 if name == "natural" else 1
  num_clients = 0 if num_clients is None and name == "natural" else num_clients
  if num_clients is None or not is_integer(num_clients) or num_clients < lowest:
    raise UserError(
      f"The number of clients must be an integer of at least {lowest}, not {num_clients!r}."
    )
  if num_clients > len(labels):
    raise UserError(
      f"{num_clients} clients cannot share {len(labels)} examples; use fewer clients."
    )
  rng = np.random.default_rng(seed)
  owner = _FUNCTIONS[name](labels, num_clients, rng, **options)
  client_sizes = np.bincount(owner, minlength=num_clients)
  if client_sizes.min() == 0:
    raise UserError(
      f"The partition {name!r} leaves client {client_sizes.argmin()} without examples; use fewer"
      " clients or less skew."
    )
  order, _ = group_by_class(owner, client_sizes, rng)
  offsets = np.concatenate([[0], np.cumsum(client_sizes)])
  return Partition(order.astype(np.int32), offsets.astype(np.int64))
