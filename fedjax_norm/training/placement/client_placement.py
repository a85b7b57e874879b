"""A run of several processes: every client has a home, a device of the process that holds its data.

Nobody else sees a client's examples or its lasting state. What every process knows of the others'
clients is how many examples they hold, so that all of them lay out the same rounds.
"""

import jax
import numpy as np
from jax.experimental import multihost_utils

from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.transforms.augment import (
  Prepare,
  channel_moments,
  channel_statistics,
  merge_channel_moments,
  to_unit,
)
from fedjax_norm.errors import UserError
from fedjax_norm.norm.moments import Moments


class Placement:
  """Who lives where: consecutive clients, as evenly over the devices as can be."""

  def __init__(self, num_clients: int, num_devices: int):
    """Divides the clients.

    Args:
      num_clients: K.
      num_devices: D, of all processes.

    Raises:
      UserError: a device without a client.
    """
    if num_clients < num_devices:
      raise UserError(
        f"{num_clients} clients cannot be divided over the {num_devices} devices of all processes; "
        "lower --host_devices or --num_processes, or take more --clients."
      )
    sizes = [len(part) for part in np.array_split(np.arange(num_clients), num_devices)]
    self._starts = np.concatenate([[0], np.cumsum(sizes)])
    self.most = max(sizes)

  def clients(self, device: int) -> np.ndarray:
    """The ids of the clients of a device."""
    return np.arange(self._starts[device], self._starts[device + 1])

  def counts(self, ids: np.ndarray) -> np.ndarray:
    """How many of some clients [n, m] live on each device: [n, D]."""
    devices = self._devices(ids)
    return np.stack([np.bincount(row, minlength=len(self._starts) - 1) for row in devices])

  def layout(self, ids: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives some clients places on their devices.

    Args:
      ids: [m], distinct.
      width: the places of a device.

    Returns:
      (the row of each place's client among those of its device, its position in ``ids``), both
      [D * width] int32 with -1 for an empty place.
    """
    slots = np.full((len(self._starts) - 1, width), -1, np.int32)
    positions = slots.copy()
    devices = self._devices(ids)
    order = np.argsort(devices, kind="stable")
    first = np.searchsorted(devices[order], np.arange(len(slots)))
    places = np.arange(len(ids)) - first[devices[order]]
    slots[devices[order], places] = ids[order] - self._starts[devices[order]]
    positions[devices[order], places] = order
    return slots.ravel(), positions.ravel()

  def _devices(self, ids: np.ndarray) -> np.ndarray:
    return np.searchsorted(self._starts, ids, "right") - 1


def local_examples(partition: Partition) -> np.ndarray:
  """The ids of the examples of this process's own clients, rising.

  Args:
    partition: of the whole federation, the same in every process.

  Raises:
    UserError: fewer clients than devices.
  """
  homes = Placement(len(partition.offsets) - 1, jax.device_count())
  mine = [i for i, d in enumerate(jax.devices()) if d.process_index == jax.process_index()]
  clients = np.concatenate([homes.clients(device) for device in mine])
  parts = [partition.order[partition.offsets[k] : partition.offsets[k + 1]] for k in clients]
  return np.sort(np.concatenate(parts))


def global_channel_statistics(
  images: np.ndarray, own: np.ndarray, prepare: Prepare = to_unit
) -> tuple[np.ndarray, np.ndarray]:
  """The channels' mean and deviation over all processes' images, of which each tells its moments.

  Args:
    images: [N, H, W, C] as stored, of which this process has its own.
    own: their ids.
    prepare: what is done to the images before (see ``channel_moments``).
  """
  moments = channel_moments(images, own, prepare)
  # As bytes, for JAX would round what it exchanges to float32.
  message = np.concatenate([np.ravel(leaf) for leaf in moments]).view(np.uint32)
  everyone = np.asarray(multihost_utils.process_allgather(message)).view(np.float64)
  parts = [Moments(row[0], *np.split(row[1:], 2)) for row in everyone]
  return channel_statistics(merge_channel_moments(parts))
