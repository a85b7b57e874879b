"""Paper 004's algorithms 1 to 3, line by line: loops over steps, nodes and tensors in float64.

Every node has its own copies; what it sends is written out as bytes. What is shared with the
library is what ``reference_fedavg`` shares.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from helpers.reference_fedavg import Flat, batch_gradient, flat, weighted_mean


class State(NamedTuple):
  """After a step: every node's weights w^k and v^k, and the bytes sent since the start."""

  weights: list[Flat]
  residuals: list[Flat]
  stats: list[Flat]
  up: int
  down: int


def encode(update: Flat) -> bytes:
  """An update as it is sent: tensor after tensor, in the shortest of three forms."""
  out = b""
  for values in update.values():
    values = values.ravel().astype("<f4")
    (places,) = np.nonzero(values)
    forms = [
      b"".join(struct.pack("<If", i, values[i]) for i in places),
      np.packbits(values != 0).tobytes() + values[places].tobytes(),
      values.tobytes(),
    ]
    form = min(range(3), key=lambda i: len(forms[i]))
    # The upper two bits of the header are the form.
    out += struct.pack("<I", form << 30 | len(places)) + forms[form]
  return out


def decode(message: bytes, shapes: dict[str, tuple[int, ...]]) -> Flat:
  """What :func:`encode` was given, in float32."""
  update = {}
  for name, shape in shapes.items():
    (header,), message = struct.unpack("<I", message[:4]), message[4:]
    form, count, size = header >> 30, header & (2**30 - 1), int(np.prod(shape))
    values = np.zeros(size, "<f4")
    if form == 0:
      for _ in range(count):
        place, value = struct.unpack("<If", message[:8])
        values[place], message = value, message[8:]
    elif form == 1:
      here = np.unpackbits(np.frombuffer(message[: -(-size // 8)], np.uint8))[:size] > 0
      message = message[-(-size // 8) :]
      values[here], message = np.frombuffer(message[: 4 * count], "<f4"), message[4 * count :]
    else:
      values, message = np.frombuffer(message[: 4 * size], "<f4"), message[4 * size :]
    update[name] = values.reshape(shape)
  assert not message
  return update


def _zeros(tree: Flat) -> Flat:
  return {name: np.zeros_like(value) for name, value in tree.items()}


def _add(*trees: Flat) -> Flat:
  return {name: sum(tree[name] for tree in trees) for name in trees[0]}


def _times(tree: Flat, factor) -> Flat:
  return {name: factor * value for name, value in tree.items()}


def _split(v: Flat, chosen: Flat) -> tuple[Flat, Flat]:
  return (
    {name: np.where(chosen[name], v[name], 0) for name in v},
    {name: np.where(chosen[name], 0, v[name]) for name in v},
  )


def _descent(model, local, w: Flat, stats: Flat, batch, rate: float, clip: float):
  """(-eta grad f with clipping and decay, the node's running statistics)."""
  grads, stats = batch_gradient(model, w, stats, batch)
  if clip:
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    grads = _times(grads, min(1.0, clip / norm))
  return {name: -rate * (g + local.weight_decay * w[name]) for name, g in grads.items()}, stats


def gaia(model, local, batches: Callable, variables, rate, thresholds) -> Iterator[State]:
  """Algorithm 1; running statistics stay with their node."""
  params, nodes = flat(variables["params"]), range(len(batches(0)))
  w, stats = [params] * len(nodes), [flat(variables.get("batch_stats", {}))] * len(nodes)
  u, v = [_zeros(params)] * len(nodes), [_zeros(params)] * len(nodes)
  up = down = 0
  for t, threshold in enumerate(thresholds):
    shared = []
    for k in nodes:
      b = batches(t)[k]
      step, stats[k] = _descent(model, local, w[k], stats[k], b, rate, local.clip_norm)
      u[k] = _add(_times(u[k], local.momentum), step)
      w[k] = _add(w[k], u[k])
      v[k] = _add(v[k], u[k])
      with np.errstate(divide="ignore", invalid="ignore"):
        chosen = {n: (np.abs(v[k][n] / w[k][n]) > threshold) | (w[k][n] == 0) for n in w[k]}
      share, v[k] = _split(v[k], chosen)
      shared.append(share)
      up += len(encode(share))
    for k in nodes:
      w[k] = _add(w[k], *(shared[i] for i in nodes if i != k))
    down += len(nodes) * len(encode(_add(*shared)))
    yield State(list(w), list(v), list(stats), up, down)


def fedavg(model, local, batches: Callable, variables, rate, rounds, local_steps):
  """Algorithm 2: the averages, and every node's local weights before each."""
  params = flat(variables["params"])
  nodes = range(len(batches(0)))
  server, u, t = params, [_zeros(params)] * len(nodes), 0
  for _ in range(rounds):
    w = [server] * len(nodes)
    for _ in range(local_steps):
      for k in nodes:
        step, _ = _descent(model, local, w[k], {}, batches(t)[k], rate, local.clip_norm)
        u[k] = _add(_times(u[k], local.momentum), step)
        w[k] = _add(w[k], u[k])
      t += 1
    server = weighted_mean(w, [1] * len(nodes))
    yield server, w


def dgc(
  model, local, batches: Callable, variables, rate, sparsities: Sequence[float], masking=True
) -> Iterator[State]:
  """Algorithm 3; gradients are clipped to clip_norm / sqrt(K)."""
  w, nodes = flat(variables["params"]), range(len(batches(0)))
  u, v = [_zeros(w)] * len(nodes), [_zeros(w)] * len(nodes)
  up = down = 0
  for t, sparsity in enumerate(sparsities):
    shared = []
    for k in nodes:
      clip = local.clip_norm / np.sqrt(len(nodes))
      g, _ = _descent(model, local, w, {}, batches(t)[k], rate, clip)
      u[k] = _add(_times(u[k], local.momentum), g)
      v[k] = _add(v[k], u[k])
      chosen = {}
      for name, value in v[k].items():
        count = max(1, round((1 - sparsity) * value.size))
        chosen[name] = np.abs(value) >= np.sort(np.abs(value), axis=None)[-count]
      share, v[k] = _split(v[k], chosen)
      if masking:
        _, u[k] = _split(u[k], chosen)
      shared.append(share)
      up += len(encode(share))
    w = _add(w, *shared)
    down += len(nodes) * len(encode(_add(*shared)))
    yield State([w] * len(nodes), list(v), [], up, down)
