"""Paper 004's algorithms 1 to 3, line by line: loops over steps, clients and tensors in float64.

Every client has a copy of the model, and updates are encoded as bytes. It shares the same things
with the library as ``reference_fedavg``.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from helpers.reference_fedavg import Flat, batch_gradient, flat, weighted_mean


class State(NamedTuple):
  """Weights w^k and residuals v^k of all clients after a step, and the bytes sent so far."""

  weights: list[Flat]
  residuals: list[Flat]
  stats: list[Flat]
  up: int
  down: int


def encode(update: Flat) -> bytes:
  """Encodes an update: each tensor in the shortest of three forms."""
  out = b""
  for values in update.values():
    values = values.ravel().astype("<f4")
    (positions,) = np.nonzero(values)
    forms = [
      b"".join(struct.pack("<If", i, values[i]) for i in positions),
      np.packbits(values != 0).tobytes() + values[positions].tobytes(),
      values.tobytes(),
    ]
    form = min(range(3), key=lambda i: len(forms[i]))
    # The upper two bits of the header are the form.
    out += struct.pack("<I", form << 30 | len(positions)) + forms[form]
  return out


def decode(message: bytes, shapes: dict[str, tuple[int, ...]]) -> Flat:
  """Decodes a message of :func:`encode`, in float32."""
  update = {}
  for name, shape in shapes.items():
    (header,), message = struct.unpack("<I", message[:4]), message[4:]
    form, count, size = header >> 30, header & (2**30 - 1), int(np.prod(shape))
    values = np.zeros(size, "<f4")
    if form == 0:
      for _ in range(count):
        position, value = struct.unpack("<If", message[:8])
        values[position], message = value, message[8:]
    elif form == 1:
      nonzero = np.unpackbits(np.frombuffer(message[: -(-size // 8)], np.uint8))[:size] > 0
      message = message[-(-size // 8) :]
      values[nonzero], message = np.frombuffer(message[: 4 * count], "<f4"), message[4 * count :]
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
  """Returns (-eta grad f with clipping and decay, the client's running statistics)."""
  grads, stats = batch_gradient(model, w, stats, batch)
  if clip:
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    grads = _times(grads, min(1.0, clip / norm))
  return {name: -rate * (g + local.weight_decay * w[name]) for name, g in grads.items()}, stats


def gaia(model, local, batches: Callable, variables, rate, thresholds) -> Iterator[State]:
  """Algorithm 1; running statistics stay on the client."""
  params, clients = flat(variables["params"]), range(len(batches(0)))
  w, stats = [params] * len(clients), [flat(variables.get("batch_stats", {}))] * len(clients)
  u, v = [_zeros(params)] * len(clients), [_zeros(params)] * len(clients)
  up = down = 0
  for t, threshold in enumerate(thresholds):
    sent = []
    for k in clients:
      b = batches(t)[k]
      step, stats[k] = _descent(model, local, w[k], stats[k], b, rate, local.clip_norm)
      u[k] = _add(_times(u[k], local.momentum), step)
      w[k] = _add(w[k], u[k])
      v[k] = _add(v[k], u[k])
      with np.errstate(divide="ignore", invalid="ignore"):
        chosen = {n: (np.abs(v[k][n] / w[k][n]) > threshold) | (w[k][n] == 0) for n in w[k]}
      update, v[k] = _split(v[k], chosen)
      sent.append(update)
      up += len(encode(update))
    for k in clients:
      w[k] = _add(w[k], *(sent[i] for i in clients if i != k))
    down += len(clients) * len(encode(_add(*sent)))
    yield State(list(w), list(v), list(stats), up, down)


def fedavg(model, local, batches: Callable, variables, rate, rounds, local_steps):
  """Algorithm 2: yields each average, and the clients' local weights before it."""
  params = flat(variables["params"])
  clients = range(len(batches(0)))
  server, u, t = params, [_zeros(params)] * len(clients), 0
  for _ in range(rounds):
    w = [server] * len(clients)
    for _ in range(local_steps):
      for k in clients:
        step, _ = _descent(model, local, w[k], {}, batches(t)[k], rate, local.clip_norm)
        u[k] = _add(_times(u[k], local.momentum), step)
        w[k] = _add(w[k], u[k])
      t += 1
    server = weighted_mean(w, [1] * len(clients))
    yield server, w


def _largest(v: Flat, sparsity: float, groups: list[list[str]]) -> Flat:
  """Returns masks of the largest share 1 - sparsity of the elements of each group of tensors."""
  chosen = {}
  for names in groups:
    sizes = np.sort(np.concatenate([np.abs(v[name]).ravel() for name in names]))
    count = max(1, round((1 - sparsity) * len(sizes)))
    chosen |= {name: np.abs(v[name]) >= sizes[-count] for name in names}
  return chosen


def dgc(
  model,
  local,
  batches: Callable,
  variables,
  rate,
  sparsities: Sequence[float],
  masking=True,
  scope="tensor",
) -> Iterator[State]:
  """Algorithm 3; gradients are clipped to clip_norm / sqrt(K)."""
  w, clients = flat(variables["params"]), range(len(batches(0)))
  u, v = [_zeros(w)] * len(clients), [_zeros(w)] * len(clients)
  groups = [[name] for name in w] if scope == "tensor" else [list(w)]
  up = down = 0
  for t, sparsity in enumerate(sparsities):
    sent = []
    for k in clients:
      clip = local.clip_norm / np.sqrt(len(clients))
      g, _ = _descent(model, local, w, {}, batches(t)[k], rate, clip)
      u[k] = _add(_times(u[k], local.momentum), g)
      v[k] = _add(v[k], u[k])
      chosen = _largest(v[k], sparsity, groups)
      update, v[k] = _split(v[k], chosen)
      if masking:
        _, u[k] = _split(u[k], chosen)
      sent.append(update)
      up += len(encode(update))
    w = _add(w, *sent)
    down += len(clients) * len(encode(_add(*sent)))
    yield State([w] * len(clients), list(v), [], up, down)
