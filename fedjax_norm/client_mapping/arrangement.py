"""Arranges the clients of a round by their numbers of local steps; NumPy on the host."""

import heapq
from collections.abc import Iterator

import numpy as np

# Number of simulated rounds from which the use of the devices is estimated.
_ROUNDS = 16


def arrange(steps: np.ndarray, devices: int, chunks: int, size: int) -> np.ndarray:
  """Divides clients over devices, and the clients of a device into chunks that run in parallel.

  The clients are sorted by steps, most first, and cut into chunks. Each chunk, which takes as long
  as its first client, goes to the device with the fewest steps so far that still lacks chunks
  (Graham 1969: longest processing time first).

  Args:
    steps: [m] int, the local steps of each client; m is at most the number of slots.
    devices: number of devices.
    chunks: number of chunks of each device.
    size: number of clients of a chunk.

  Returns:
    [devices * chunks * size] positions in ``steps``, device after device and chunk after chunk; -1
    is an empty slot.
  """
  slots = np.full((devices * chunks, size), -1)
  slots.ravel()[: len(steps)] = np.argsort(-steps, kind="stable")
  shares: list[list[np.ndarray]] = [[] for _ in range(devices)]
  loads = [(0, device) for device in range(devices)]
  for chunk in slots:
    load, device = heapq.heappop(loads)
    shares[device].append(chunk)
    if len(shares[device]) < chunks:
      longest = int(steps[chunk[0]]) if chunk[0] >= 0 else 0
      heapq.heappush(loads, (load + longest, device))
  return np.concatenate([chunk for share in shares for chunk in share])


def busy_share(steps: np.ndarray, slots: np.ndarray, devices: int, size: int) -> float:
  """Returns the share of the time of all slots in which clients take their own steps, in a round.

  A chunk of ``size`` slots takes as many steps as its longest client, and a round as many as the
  slowest device. ``steps`` and ``slots`` are those of :func:`arrange`.
  """
  padded = np.full(-(-len(slots) // (devices * size)) * devices * size, -1)
  padded[: len(slots)] = slots
  taken = np.append(steps, 0)[padded].reshape(devices, -1, size).max(2).sum(1).max()
  return float(steps.sum() / (devices * size * taken))


def sample_cohorts(steps: np.ndarray, cohort: int) -> Iterator[np.ndarray]:
  """Yields the steps [cohort] of the clients of some rounds, drawn from the steps of all clients.

  The draws are the same in every call.
  """
  rng = np.random.default_rng(0)
  for _ in range(1 if cohort == len(steps) else _ROUNDS):
    yield rng.choice(steps, cohort, replace=False)
