"""SSGD as one would write it on paper: a Python loop, float64 arithmetic, two ways.

``joint_steps`` knows no workers: it trains one model on the joint batch. ``worker_steps`` averages
the gradients of workers that do not look at each other. A norm that looks across the batch never
sees padding here. Both share with the library what ``reference_fedavg`` does.
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
  """What the master holds after a step, and each worker's own statistics."""

  params: Flat
  stats: Flat
  trace: Flat
  own_stats: list[Flat]


@functools.cache
def _draw(largest: int, transform) -> Callable:
  return jax.jit(
    lambda data, row, step, key, take: draw(data, row, step, largest, transform, key, take)
  )


def joint_batch(model, batches: Sequence[Batch]) -> Batch:
  """Some batches in one; without its padding for a norm that would have to leave it out."""
  joint = Batch(*(np.concatenate(field) for field in zip(*batches, strict=True)))
  if not model.norm.updates_running_statistics:
    return joint  # of one size, so that it compiles once
  return Batch(*(field[joint.mask > 0] for field in joint))


def batches_of(data: FederatedData, takes: Sequence[int], transform, key) -> Callable:
  """(step) -> the batch of every worker, worker k's of ``takes[k]`` places."""
  data, run = jax.tree.map(jnp.asarray, data), _draw(max(takes), transform)

  def batches(step: int) -> list[Batch]:
    drawn = [run(data, jnp.int32(k), jnp.int32(step), key, take) for k, take in enumerate(takes)]
    return [jax.tree.map(np.asarray, batch) for batch in drawn]

  return batches


def _start(variables) -> State:
  params, stats = flat(variables["params"]), flat(variables.get("batch_stats", {}))
  return State(params, stats, {k: np.zeros_like(v) for k, v in params.items()}, [])


def joint_steps(model, local, batches: Callable, variables, rates) -> Iterator[State]:
  """SGD of one model on all workers' examples at once; its state after every step."""
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
  """The workers' gradients one by one, averaged by examples or uniformly, and the master's step.

  Args:
    model: of every worker.
    local: the master's ``LocalConfig``.
    batches: of ``batches_of``.
    variables: the initial model.
    rates: of each step.
    uniform: whether every worker counts alike.
    policy: ``mean``, ``moments`` or ``local``, for running statistics.
  """
  state = _start(variables)
  count = len(batches(0))
  state = state._replace(own_stats=[state.stats] * count)
  for step, rate in enumerate(rates):
    all_grads, all_stats, weights = [], [], []
    for batch, own in zip(batches(step), state.own_stats, strict=True):
      stats = own if policy == "local" else state.stats
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
