"""A slow and simple FedAvg: loops over rounds, clients and steps, in float64.

It shares three things with the library: the model, the batches (``draw``) and the dropout keys.
Gradients come from ``jax.grad`` of ``model.apply`` without vmap; SGD, clipping, the proximal term,
averaging and the policies for momentum and statistics are in NumPy. Trees are flat dicts of float64
arrays by path.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fedjax_norm import models
from fedjax_norm.data.federated import FederatedData, draw
from fedjax_norm.norm import Mode
from fedjax_norm.random_keys import Stream, stream

Flat = dict[str, np.ndarray]


def flat(tree: Any) -> Flat:
  """Returns the leaves of a nested or flat dict as float64 arrays by path."""
  return {k: np.asarray(v, np.float64) for k, v in flatten_dict(tree, sep="/").items()}


def close(actual: Any, expected: Any, message: object = "", *, rtol=1e-4, atol=2e-5) -> None:
  """Asserts that two trees have the same paths and values."""
  actual, expected = flat(actual), flat(expected)
  assert actual.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_allclose(actual[path], leaf, rtol, atol, err_msg=f"{path} {message}")


def distance(a: Any, b: Any) -> float:
  """Returns the largest difference of two elements."""
  a, b = flat(a), flat(b)
  return max(np.abs(a[path] - b[path]).max() for path in a)


def nested(leaves: Flat) -> Any:
  """Returns the nested dict of :func:`flat`, in float32."""
  return unflatten_dict({k: np.asarray(v, np.float32) for k, v in leaves.items()}, sep="/")


def random_variables(model, image_shape: tuple[int, int, int]) -> Any:
  """Returns random variables, host arrays, without special values such as zero biases."""

  def fill(path, shape):
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    values = rng.standard_normal(shape.shape) / np.sqrt(max(np.prod(shape.shape[:-1]), 4))
    if path.endswith(("scale", "multiplier")):
      values = 1 + 0.3 * values
    if path.endswith("var"):
      values = np.abs(1 + 0.3 * values)
    return values.astype(np.float32)

  shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0), image_shape))
  return unflatten_dict({k: fill(k, s) for k, s in flatten_dict(shapes, sep="/").items()}, sep="/")


@functools.cache
def gradient(model) -> Callable:
  """Makes a function (variables, *batch, step, key) -> (gradient of the mean loss, batch_stats)."""

  @jax.jit
  def run(variables, images, labels, mask, step, key):
    def loss(params):
      mode = Mode(train=True, mask=mask, step=step)
      logits, changed = model.apply(
        {**variables, "params": params},
        images,
        mode,
        mutable=["batch_stats"],
        rngs={"dropout": key},
      )
      picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]
      return -(picked * mask).sum() / mask.sum(), changed.get("batch_stats", {})

    return jax.grad(loss, has_aux=True)(variables["params"])

  return run


def batch_gradient(model, params, stats, batch, step=0, key=None) -> tuple[Flat, Flat]:
  """Returns (gradient of a batch's mean loss, new running statistics), both flat."""
  variables = {"params": nested(params), **({"batch_stats": nested(stats)} if stats else {})}
  key = jax.random.key(0) if key is None else key
  grads, stats = gradient(model)(variables, *batch, jnp.int32(step), key)
  return flat(grads), flat(stats)


@functools.cache
def _draw(batch_size: int, transform) -> Callable:
  return jax.jit(
    lambda data, client, step, key: draw(data, client, step, batch_size, transform, key)
  )


def batch_drawer(data: FederatedData, batch_size: int, transform, key) -> Callable:
  """Makes a function (client, step) -> batch, by the library's ``draw``."""
  data, run = jax.tree.map(jnp.asarray, data), _draw(batch_size, transform)
  return lambda client, step: run(data, jnp.int32(client), jnp.int32(step), key)


def sgd_step(config, params: Flat, trace: Flat, grads: Flat, anchor: Flat, rate: float):
  """Returns (params, trace) after a step of SGD with the options of ``LocalConfig``."""
  prox = getattr(config, "prox", 0.0)  # an option of FedAvg
  grads = {k: g + prox * (params[k] - anchor[k]) for k, g in grads.items()}
  frozen = config.frozen_paths
  grads = {k: np.zeros_like(g) if k in frozen else g for k, g in grads.items()}
  if config.clip_norm:
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    grads = {k: g * min(1.0, config.clip_norm / norm) for k, g in grads.items()}
  grads = {k: g + config.weight_decay * params[k] for k, g in grads.items()}
  trace = {k: config.momentum * trace[k] + g for k, g in grads.items()}
  updates = trace
  if config.nesterov:
    updates = {k: g + config.momentum * trace[k] for k, g in grads.items()}
  return {k: w if k in frozen else w - rate * updates[k] for k, w in params.items()}, trace


@dataclasses.dataclass
class ClientState:
  """The state of a client between rounds."""

  trace: Flat
  norm_params: Flat
  stats: Flat


@dataclasses.dataclass
class Run:
  """The state of the server and of all clients."""

  params: Flat
  stats: Flat
  trace: Flat
  clients: list[ClientState]
  examples: int = 0
  server_state: Any = None


def weighted_mean(trees: Sequence[Flat], weights: Sequence[float]) -> Flat:
  """Returns sum_k weight_k tree_k / sum_k weight_k."""
  total = sum(weights)
  return {k: sum(w * t[k] for t, w in zip(trees, weights, strict=True)) / total for k in trees[0]}


def total_moments(stats: Sequence[Flat], weights: Sequence[float]) -> Flat:
  """Returns the mean and variance of the mixture of the clients' distributions."""
  result = weighted_mean(stats, weights)
  for path in result:
    if path.endswith("var"):
      means = path.removesuffix("var") + "mean"
      between = [{path: (s[means] - result[means]) ** 2} for s in stats]
      result[path] = result[path] + weighted_mean(between, weights)[path]
  return result


def fedavg(
  model,
  config,
  data: FederatedData,
  transform,
  variables,
  cohorts: Sequence[Sequence[int]],
  rates: Sequence[float],
  key,
  *,
  norm_layers: Sequence[str] = (),
  server: Callable[[Flat, Flat, Any], tuple[Flat, Any]] | None = None,
) -> Run:
  """Trains for ``len(cohorts)`` rounds.

  Args:
    model: the model, its norm bound to no axis.
    config: a ``FedAvgConfig``.
    data: the federated data.
    transform: transform of images.
    variables: initial model.
    cohorts: clients of each round.
    rates: learning rate of each round.
    key: key of the run.
    norm_layers: paths of the norms whose parameters FedBN keeps on the client.
    server: (params, mean change, state) -> (params, state); None adds the change.
  """
  sizes = np.asarray(data.sizes)
  batch = batch_drawer(data, config.batch_size, transform, key)
  params, stats = flat(variables["params"]), flat(variables.get("batch_stats", {}))
  zeros = {k: np.zeros_like(v) for k, v in params.items()}
  personal = {k for k in params if config.fedbn and k.rpartition("/")[0] in norm_layers}
  run = Run(
    params,
    stats,
    zeros,
    [ClientState(zeros, {k: params[k] for k in personal}, stats) for _ in sizes],
  )
  updates_stats = model.norm.source != "running"
  for round_, (cohort, rate) in enumerate(zip(cohorts, rates, strict=True)):
    round_key = jax.random.fold_in(stream(key, Stream.DROPOUT), round_)
    changes, all_stats, traces, weights = [], [], [], []
    for k in cohort:
      client = run.clients[k]
      steps = config.local_steps or config.local_epochs * -(-sizes[k] // config.batch_size)
      anchor = {**run.params, **client.norm_params}
      w = anchor
      stats = client.stats if config.batch_stats == "local" else run.stats
      trace = {"reset": zeros, "local": client.trace, "global": run.trace}[
        config.client_momentum or "reset"
      ]
      examples = 0
      for i in range(steps):
        step = round_ * steps + i
        b = batch(k, step)
        dropout_key = jax.random.fold_in(jax.random.fold_in(round_key, k), i)
        grads, after = batch_gradient(model, w, stats, b, step, dropout_key)
        stats = after if updates_stats else stats
        w, trace = sgd_step(config, w, trace, grads, anchor, rate)
        examples += int(b.mask.sum())
      run.clients[k] = ClientState(trace, {p: w[p] for p in personal}, stats)
      run.examples += examples
      changes.append({p: w[p] - run.params[p] for p in w if p not in personal})
      all_stats.append(stats)
      traces.append(trace)
      weights.append({"examples": sizes[k], "processed": examples, "uniform": 1}[config.weighting])
    change = weighted_mean(changes, weights)
    shared = {p: run.params[p] for p in change}
    if server is None:
      shared = {p: shared[p] + change[p] for p in change}
    else:
      shared, run.server_state = server(shared, change, run.server_state)
    run.params = {**run.params, **shared}
    run.trace = weighted_mean(traces, weights)
    if updates_stats and run.stats and config.batch_stats in (None, "mean", "moments"):
      combine = total_moments if config.batch_stats == "moments" else weighted_mean
      run.stats = combine(all_stats, weights)
  return run
