"""Network profiles: speeds of simulated nodes and their network links, built in or from a file."""

import csv
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fedjax_norm import number_parsing
from fedjax_norm.errors import UserError
from fedjax_norm.options import Options, option

COLUMNS = (
  "node",
  "step_seconds",
  "latency_seconds",
  "up_bytes_per_second",
  "down_bytes_per_second",
)
"""Header of a user's CSV file; ``node`` is a client id, from 0, and the latency is one way."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig(Options):
  """Options of the simulated network."""

  group = "network"

  network: str | None = option(
    None,
    "Simulated network; the run reports the time that it would take there. lan: one data centre, "
    "wan: data centres across the world, mobile: phones, or the path of a CSV file with the speeds "
    "of each client (node). If unset, no time is simulated.",
  )


class Profile(NamedTuple):
  """Speeds of a kind of node (a client's machine) and of its network link.

  Attributes:
    flops: floating-point operations per second of the typical node while it trains.
    flops_spread: speed of the fastest node divided by that of the slowest.
    latency: one-way latency in seconds.
    up: bytes per second from the typical node to the server.
    down: bytes per second from the server to the typical node.
    link_spread: bandwidth of the best link divided by that of the worst.
  """

  flops: float
  flops_spread: float
  latency: float
  up: float
  down: float
  link_spread: float


PROFILES: Mapping[str, Profile] = MappingProxyType(
  {
    # Machines of one data centre.
    "lan": Profile(
      # A third of the float32 peak of an NVIDIA T4 (8.1e12, its data sheet). The part of the peak
      # that training reaches depends on the model, so this is an order of magnitude.
      flops=2.7e12,
      # Assumed: machines of the same kind under slightly different loads.
      flops_spread=1.25,
      # Half of the 0.5 ms of a round trip within a data centre (J. Dean, "Numbers everyone should
      # know", 2009).
      latency=0.25e-3,
      # The line rate of 10 Gbit Ethernet (IEEE 802.3ae), both ways.
      up=1.25e9,
      down=1.25e9,
      # The ports of a switch are alike.
      link_spread=1.0,
    ),
    # Data centres across the world.
    "wan": Profile(
      # As in the LAN.
      flops=2.7e12,
      # Assumed: the difference between two generations of the same class of accelerator.
      flops_spread=2.0,
      # Half of the 150 ms of a round trip California - Netherlands (Dean, as above).
      latency=75e-3,
      # Between 11 EC2 regions Gaia (Hsieh et al., NSDI 2017, sec. 2) measured on average a
      # fifteenth of the bandwidth within a region, which is assumed to be 1 Gbit/s.
      up=1e9 / 8 / 15,
      down=1e9 / 8 / 15,
      # Near regions had up to 12 times the bandwidth of distant ones (same source).
      link_spread=12.0,
    ),
    # Phones.
    "mobile": Profile(
      # Smartphone CPUs have peaks of tens of GFLOP/s (Wu et al., "Machine learning at Facebook:
      # understanding inference at the edge", HPCA 2019, fig. 1). Training reaches a part of that,
      # so this is an order of magnitude.
      flops=1e10,
      # "Peak performance can vary by over an order of magnitude" (same figure).
      flops_spread=10.0,
      # Half of a mean ping of 40 ms (Speedtest Global Index, mobile, September 2020).
      latency=20e-3,
      # 11.22 and 35.96 Mbit/s, the means in the same index.
      up=11.22e6 / 8,
      down=35.96e6 / 8,
      # Assumed: an order of magnitude, as for their CPUs.
      link_spread=10.0,
    ),
  }
)
"""Built-in profiles; a comment names the source of each number."""


def read_nodes(path: Path, num_nodes: int) -> np.ndarray:
  """Reads a CSV file of nodes; returns the columns after ``node`` as [4, num_nodes] float64.

  Raises UserError if the file is missing, has wrong columns or values, or lacks nodes.
  """
  if not path.is_file():
    raise UserError(
      f"there is no network profile and no file {str(path)!r}; give {', '.join(PROFILES)} or the "
      f"path of a CSV file with the header {','.join(COLUMNS)}."
    )
  try:
    with path.open(encoding="utf-8-sig", newline="") as file:
      reader = csv.DictReader(file, skipinitialspace=True)
      missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
      if missing:
        raise UserError(
          f"{path} has no column {', '.join(missing)}; its header must be {','.join(COLUMNS)}."
        )
      rows = [_numbers(f"{path}, line {reader.line_num}", row) for row in reader]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path} cannot be read as a CSV file ({error}); give a text file.") from error
  table = {int(row[0]): row[1:] for row in rows}
  if len(table) < len(rows):
    raise UserError(f"{path} has two rows for the same node; give each node one row.")
  missing_nodes = [node for node in range(num_nodes) if node not in table]
  if missing_nodes:
    raise UserError(
      f"{path} has no row for node {missing_nodes[0]}; give a row for each of the run's "
      f"{num_nodes} nodes, 0 to {num_nodes - 1}."
    )
  return np.array([table[node] for node in range(num_nodes)]).T


def _numbers(where: str, row: Mapping[str, str | None]) -> list[float]:
  """Returns the numbers of a row in the order of ``COLUMNS``; ``where`` is its place in errors."""
  numbers = []
  for name in COLUMNS:
    text = row[name]
    try:
      value = number_parsing.parse_float((text or "").strip())
    except ValueError:
      value = math.nan
    if name == "node":
      valid, wanted = value >= 0 and value.is_integer(), "a whole number from 0"
    elif name == "latency_seconds":
      valid, wanted = 0 <= value < math.inf, "a number of 0 or more"
    else:
      valid, wanted = 0 < value < math.inf, "a number above 0"
    if not valid:
      raise UserError(f"{where}: {name} is {text!r}; it must be {wanted}.")
    numbers.append(value)
  return numbers
