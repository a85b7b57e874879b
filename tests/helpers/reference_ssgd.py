"""A slow and simple SSGD in float64, in two ways.

``joint_steps`` trains one model on the joint batch. ``worker_steps`` averages the gradients of
clients whose norms do not exchange moments. Batches have no padding if the norm uses the batch.
Both share the same things with the library as ``reference_fedavg``.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from helpers.reference_fedavg import (
  Flat,
  batch_gradient,
  flat,
  sgd_step,
  total_moments,
  weighted_mean,
)

from fedjax_norm.data.federated import FederatedData, draw
from fedjax_norm.typing import Batch


class State(NamedTuple):
  """The server's state after a step, and each client's local statistics."""

  params: Flat
  stats: Flat
  trace: Flat
  local_stats: list[Flat]


@functools.cache
def _draw(largest: int, transform) -> Callable:
  return jax.jit(
    lambda data, row, step, key, take: draw(data, row, step, largest, transform, key, take)
  )


def joint_batch(model, batches: Sequence[Batch]) -> Batch:
  """Concatenates batches; without padding if the norm uses the batch."""
  joint = Batch(*(np.concatenate(field) for field in zip(*batches, strict=True)))
  if not model.norm.updates_running_statistics:
    return joint  # always the same size, which compiles once
  return Batch(*(field[joint.mask > 0] for field in joint))


def batches_of(data: FederatedData, takes: Sequence[int], transform, key) -> Callable:
  """Makes a function step -> batches of all clients, with ``takes[k]`` examples of client k."""
  data, run = jax.tree.map(jnp.asarray, data), _draw(max(takes), transform)

  def batches(step: int) -> list[Batch]:
    drawn = [run(data, jnp.int32(k), jnp.int32(step), key, take) for k, take in enumerate(takes)]
    return [jax.tree.map(np.asarray, batch) for batch in drawn]

  return batches


def _start(variables) -> State:
  params, stats = flat(variables["params"]), flat(variables.get("batch_stats", {}))
  return State(params, stats, {k: np.zeros_like(v) for k, v in params.items()}, [])


def joint_steps(model, local, batches: Callable, variables, rates) -> Iterator[State]:
  """Yields the state after every step of SGD on the joint batch of all clients."""
  state = _start(variables)
  for step, rate in enumerate(rates):
    batch = joint_batch(model, batches(step))
    grads, stats = batch_gradient(model, state.params, state.stats, batch, step)
    params, trace = sgd_step(local, state.params, state.trace, grads, state.params, rate)
    state = State(params, stats, trace, [])
    yield state


def worker_steps(
  model, local, batches: Callable, variables, rates, *, uniform=False, policy="mean"
) -> Iterator[State]:
  """Yields the state after every step with the average of the clients' gradients.

  Args:
    model: model of every client.
    local: ``LocalConfig`` of the server.
    batches: result of ``batches_of``.
    variables: initial model.
    rates: learning rate of each step.
    uniform: whether all clients have the same weight; else examples are the weights.
    policy: ``mean``, ``moments`` or ``local``, for running statistics.
  """
  state = _start(variables)
  count = len(batches(0))
  state = state._replace(local_stats=[state.stats] * count)
  for step, rate in enumerate(rates):
    all_grads, all_stats, weights = [], [], []
    for batch, client_stats in zip(batches(step), state.local_stats, strict=True):
      stats = client_stats if policy == "local" else state.stats
      grads, stats = batch_gradient(model, state.params, stats, joint_batch(model, [batch]), step)
      all_grads.append(grads)
      all_stats.append(stats)
      weights.append(1 if uniform else batch.mask.sum())
    average = weighted_mean(all_grads, weights)
    params, trace = sgd_step(local, state.params, state.trace, average, state.params, rate)
    combine = {"mean": weighted_mean, "moments": total_moments}.get(policy)
    stats = combine(all_stats, weights) if combine else state.stats
    state = State(params, stats, trace, all_stats)
    yield state
