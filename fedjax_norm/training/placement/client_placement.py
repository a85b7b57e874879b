"""Assigns clients to devices in a run of several processes.

A client's examples and state are only in the process with the client's device. Every process knows
the number of examples of all clients, so that all processes plan the same rounds.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils

from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.transforms.scaling import (
  Prepare,
  channel_moments,
  channel_statistics,
  merge_channel_moments,
  to_unit,
)
from fedjax_norm.errors import UserError
from fedjax_norm.norm.moments import Moments


class Placement:
  """Assigns consecutive clients to each device, as evenly as possible.

  Attributes:
    max_clients: number of clients of the device with the most clients.
  """

  def __init__(self, num_clients: int, num_devices: int):
    """Divides K clients over D devices; raises a UserError if there are fewer clients."""
    if num_clients < num_devices:
      raise UserError(
        f"{num_clients} clients cannot be divided over the {num_devices} devices of all processes; "
        "lower --host_devices or --num_processes, or take more --clients."
      )
    sizes = [len(part) for part in np.array_split(np.arange(num_clients), num_devices)]
    self._starts = np.concatenate([[0], np.cumsum(sizes)])
    self.max_clients = max(sizes)

  def clients(self, device: int) -> np.ndarray:
    """Returns the ids of the clients of a device."""
    return np.arange(self._starts[device], self._starts[device + 1])

  def counts(self, ids: np.ndarray) -> np.ndarray:
    """Returns the number of clients on each device [n, D], for n cohorts of client ids [n, m]."""
    devices = self._devices(ids)
    return np.stack([np.bincount(row, minlength=len(self._starts) - 1) for row in devices])

  def layout(self, ids: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Arranges distinct clients ``ids`` [m] in D * width slots, ``width`` per device.

    Returns:
      (row of each slot's client among the clients of its device, index of that client in ``ids``),
      both [D * width] int32; -1 in an empty slot.
    """
    slots = np.full((len(self._starts) - 1, width), -1, np.int32)
    positions = slots.copy()
    devices = self._devices(ids)
    order = np.argsort(devices, kind="stable")
    first = np.searchsorted(devices[order], np.arange(len(slots)))
    columns = np.arange(len(ids)) - first[devices[order]]
    slots[devices[order], columns] = ids[order] - self._starts[devices[order]]
    positions[devices[order], columns] = order
    return slots.ravel(), positions.ravel()

  def _devices(self, ids: np.ndarray) -> np.ndarray:
    return np.searchsorted(self._starts, ids, "right") - 1


def local_examples(partition: Partition) -> np.ndarray:
  """Returns the sorted ids of the examples of the clients on this process's devices."""
  placement = Placement(len(partition.offsets) - 1, jax.device_count())
  local = [i for i, d in enumerate(jax.devices()) if d.process_index == jax.process_index()]
  clients = np.concatenate([placement.clients(device) for device in local])
  parts = [partition.order[partition.offsets[k] : partition.offsets[k + 1]] for k in clients]
  return np.sort(np.concatenate(parts))


def global_channel_statistics(
  images: np.ndarray, ids: np.ndarray, prepare: Prepare = to_unit
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean and standard deviation of each channel over all processes' training images.

  The processes exchange the moments of their images, not the images. ``ids`` are the ids of this
  process's images; ``prepare`` is the preprocessing before the moments (see ``channel_moments``).
  """
  moments = channel_moments(images, ids, prepare)
  # Exchanged as uint32, because JAX would round float64 to float32.
  message = np.concatenate([np.ravel(leaf) for leaf in moments]).view(np.uint32)
  gathered = np.asarray(multihost_utils.process_allgather(message)).view(np.float64)
  parts = [Moments(row[0], *np.split(row[1:], 2)) for row in gathered]
  return channel_statistics(merge_channel_moments(parts))
