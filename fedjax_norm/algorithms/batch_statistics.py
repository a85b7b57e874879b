"""Policies that combine the clients' running statistics on the server, and recalibration."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from fedjax_norm import tree_leaves
from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data import federated
from fedjax_norm.data.federated import FederatedData, Transform, draw
from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.norm.moments import Moments, from_sums, to_sums
from fedjax_norm.typing import Array, Key, PyTree, Variables


class DataPart(NamedTuple):
  """The data of some clients, divided over devices.

  Attributes:
    data: examples of the clients.
    rows: [D, n] int32, rows of ``data`` that each device processes sequentially; -1 is padding.
  """

  data: FederatedData
  rows: Array


class Combiner(NamedTuple):
  """A policy as two functions, before and after the sum over clients.

  Attributes:
    to_sums: (client's statistics, client's weight, server's statistics) -> summands.
    from_sums: (sums, total weight, server's statistics) -> new server's statistics.
  """

  to_sums: Callable[[PyTree, Array, PyTree], PyTree]
  from_sums: Callable[[PyTree, Array, PyTree], PyTree]


def check_policy(policy: str, spec: NormSpec) -> None:
  """Checks that a norm supports a policy.

  Raises:
    UserError: the norm has no running statistics, or training needs those that the policy does not
      compute.
  """
  if not spec.has_running_statistics and policy != "mean":
    raise UserError(
      f"norm {spec.name!r} keeps no running statistics, so batch_stats={policy} would have no "
      "effect; drop it or choose a norm that has them, such as bn."
    )
  if spec.freezes_statistics and policy == "local":
    raise UserError(
      "FixBN freezes global statistics, which batch_stats=local and FedBN do not compute; choose "
      "mean, moments or recalibrate."
    )
  if spec.across_clients and policy == "recalibrate":
    raise UserError(
      f"norm {spec.name!r} merges the clients' batches, but recalibrate passes over each client's "
      "data separately; choose mean or moments."
    )
  if spec.source == "corrected" and policy == "recalibrate":
    raise UserError(
      "batch renormalization trains with running statistics, but recalibrate computes them only at "
      "evaluations; choose mean, moments or local."
    )


def combiner(policy: str) -> Combiner:
  """Returns the combiner of a policy.

  ``mean`` averages means and variances, as FedAvg usually does. ``moments`` is the law of total
  variance, which includes the variance between clients: var = sum p_i (var_i + (mean_i - mean)^2).
  ``local``, ``recalibrate`` and ``frozen`` send nothing in a round and leave the server's
  statistics unchanged.
  """
  match policy:
    case "mean":
      return Combiner(
        lambda stats, weight, server: optax.tree.scale(weight, stats),
        lambda sums, total, server: optax.tree.scale(1 / total, sums),
      )
    case "moments":
      return Combiner(_moment_sums, _from_moment_sums)
    case _:
      return Combiner(lambda stats, weight, server: (), lambda sums, total, server: server)


def _by_layer(stats: PyTree) -> dict[str, dict[str, Array]]:
  """Returns the statistics of each layer by the layer's path."""
  layers: dict[str, dict[str, Array]] = {}
  for path, leaf in tree_leaves.flatten(stats).items():
    layer, _, name = path.rpartition("/")
    layers.setdefault(layer, {})[name] = leaf
  return layers


def _moment_sums(stats: PyTree, weight: Array, server: PyTree) -> PyTree:
  shifts = _by_layer(server)
  sums = {}
  for layer, leaves in _by_layer(stats).items():
    mean = leaves["mean"]
    moments = Moments(weight, mean, weight * leaves.get("var", jnp.zeros_like(mean)))
    sums[layer] = to_sums(moments, shifts[layer]["mean"])
  return sums


def _from_moment_sums(sums: PyTree, total: Array, server: PyTree) -> PyTree:
  del total  # the weights are the moments' counts
  flat = {}
  for layer, leaves in _by_layer(server).items():
    moments = from_sums(sums[layer], leaves["mean"])
    flat[f"{layer}/mean"] = moments.mean
    if "var" in leaves:
      flat[f"{layer}/var"] = moments.m2 / moments.count
  return tree_leaves.unflatten(flat)


def make_recalibrate(
  model: nn.Module, mapping: ClientMapping, batch_size: int, transform: Transform
) -> Callable[[Variables, Iterable[DataPart], Key], PyTree]:
  """Makes a function that recomputes running statistics in one pass over all clients' data.

  With the aggregated weights, every client goes once through its examples in training mode (without
  dropout) and sends the moments of each norm's input, which the server merges by the law of total
  variance.

  Args:
    model: a model whose norms have running statistics and normalize with the batch in training.
    mapping: how clients are mapped; each device processes its clients sequentially.
    batch_size: batch size of the pass.
    transform: transform of the images, without augmentation.

  Returns:
    (variables, the clients' data in parts, key) -> batch_stats. Each device adds up its clients
    first, so that the result does not depend on the division into parts.
  """

  def client_sums(variables: Variables, data: FederatedData, row: Array, key: Key) -> PyTree:
    shift = {layer: leaves["mean"] for layer, leaves in _by_layer(variables["batch_stats"]).items()}
    data = federated.without_drift(data)

    def moments(step: Array) -> PyTree:
      batch = draw(data, row, step, batch_size, transform, key)
      mode = Mode(train=True, dropout=False, mask=batch.mask, step=jnp.int32(0))
      _, out = model.apply(variables, batch.images, mode, mutable=["moments"])
      layers = {}
      for layer in shift:
        node = out["moments"]
        for name in layer.split("/"):
          node = node[name]
        layers[layer] = to_sums(node["batch"], shift[layer])
      return layers

    steps = jnp.where(row < 0, 0, federated.steps_per_epoch(data.sizes[row], batch_size))
    shapes = jax.eval_shape(moments, jnp.int32(0))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return lax.fori_loop(0, steps, lambda i, total: optax.tree.add(total, moments(i)), zeros)

  def add_clients(shared: Any, item: Any) -> tuple[tuple[()], PyTree]:
    """Adds the sums of a device's clients to the device's total."""
    variables, data, key = shared
    total, rows = item

    def body(i: Array, total: PyTree) -> PyTree:
      return optax.tree.add(total, client_sums(variables, data, rows[i], key))

    return (), lax.fori_loop(0, rows.shape[0], body, total)

  def begin(variables: Variables) -> PyTree:
    """Returns zero sums for each device and layer: a count [D], and two arrays [D, G]."""
    zeros = {}
    for layer, leaves in _by_layer(variables["batch_stats"]).items():
      by_group = jnp.zeros((mapping.num_devices, *leaves["mean"].shape), jnp.float32)
      zeros[layer] = (jnp.zeros(mapping.num_devices, jnp.float32), by_group, by_group)
    return zeros

  def add(totals: PyTree, variables: Variables, part: DataPart, key: Key) -> PyTree:
    shared, sharded = (variables, part.data, key), (False, True, False)
    return mapping.map_reduce(add_clients, shared, (totals, part.rows), sharded)[1]

  def finish(totals: PyTree, variables: Variables) -> PyTree:
    sums, _ = mapping.map_reduce(lambda shared, total: (total, ()), (), totals)
    flat = {}
    for layer, leaves in _by_layer(variables["batch_stats"]).items():
      merged = from_sums(sums[layer], leaves["mean"])
      flat[f"{layer}/mean"] = merged.mean
      if "var" in leaves:
        flat[f"{layer}/var"] = merged.unbiased_variance
    return tree_leaves.unflatten(flat)

  compiled_begin, compiled_add, compiled_finish = (
    jax.jit(function, out_shardings=mapping.sharding) for function in (begin, add, finish)
  )

  def recalibrate(variables: Variables, parts: Iterable[DataPart], key: Key) -> PyTree:
    totals = compiled_begin(variables)
    for part in parts:
      # Waits for each part, because parts that are read ahead would fill the memory.
      totals = jax.block_until_ready(compiled_add(totals, variables, part, key))
    return compiled_finish(totals, variables)

  return recalibrate
