"""How the server combines the clients' running statistics."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from fedjax_norm import tree_leaves
from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.federated import (
  FederatedData,
  Transform,
  draw,
  steps_per_epoch,
  without_drift,
)
from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.norm.moments import Moments, from_sums, to_sums
from fedjax_norm.typing import Array, Key, PyTree, Variables


class Part(NamedTuple):
  """Some clients' data and who goes through them.

  Attributes:
    data: their examples.
    rows: [D, n] int32, the rows of ``data`` that each device takes, one after another; -1 is none.
  """

  data: FederatedData
  rows: Array


class Combiner(NamedTuple):
  """A policy in two halves, around the sum over clients.

  Attributes:
    to_sums: (a client's statistics, its weight, the server's statistics) -> what is summed.
    from_sums: (sums, total weight, the server's statistics) -> the server's new statistics.
  """

  to_sums: Callable[[PyTree, Array, PyTree], PyTree]
  from_sums: Callable[[PyTree, Array, PyTree], PyTree]


def check_policy(policy: str, spec: NormSpec) -> None:
  """Refuses a policy that a norm denies.

  Raises:
    UserError: statistics that the norm does not keep, or needs in training and would not have.
  """
  if not spec.has_running_statistics and policy != "mean":
    raise UserError(
      f"norm {spec.name!r} keeps no running statistics, so batch_stats={policy} would "
      "do nothing; drop it or choose a norm that has them, such as bn."
    )
  if spec.freezes_statistics and policy == "local":
    raise UserError(
      "FixBN freezes the global statistics, which batch_stats=local and FedBN never make; choose "
      "mean, moments or recalibrate."
    )
  if spec.across_clients and policy == "recalibrate":
    raise UserError(
      f"norm {spec.name!r} merges the clients' batches, which a pass of each client alone cannot "
      "recalibrate; choose mean or moments."
    )
  if spec.source == "corrected" and policy == "recalibrate":
    raise UserError(
      "batch renormalization trains with the running statistics, which recalibrate makes only at "
      "evaluations; choose mean, moments or local."
    )


def combiner(policy: str) -> Combiner:
  """The combiner of a policy.

  ``mean`` averages means and variances, the usual FedAvg. ``moments`` is the law of total variance:
  it keeps the variance between clients, var = sum p_i (var_i + (mean_i - mean)^2). ``local`` and
  ``recalibrate`` send nothing in a round (and so do frozen statistics): the server's stay.
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


def _layers(stats: PyTree) -> dict[str, dict[str, Array]]:
  """The statistics of each layer by the layer's path."""
  layers: dict[str, dict[str, Array]] = {}
  for path, leaf in tree_leaves.flatten(stats).items():
    layer, _, name = path.rpartition("/")
    layers.setdefault(layer, {})[name] = leaf
  return layers


def _moment_sums(stats, weight, server):
  shifts = _layers(server)
  sums = {}
  for layer, leaves in _layers(stats).items():
    mean = leaves["mean"]
    moments = Moments(weight, mean, weight * leaves.get("var", jnp.zeros_like(mean)))
    sums[layer] = to_sums(moments, shifts[layer]["mean"])
  return sums


def _from_moment_sums(sums, total, server):
  del total  # the weights are the moments' counts
  flat = {}
  for layer, leaves in _layers(server).items():
    moments = from_sums(sums[layer], leaves["mean"])
    flat[f"{layer}/mean"] = moments.mean
    if "var" in leaves:
      flat[f"{layer}/var"] = moments.m2 / moments.count
  return tree_leaves.unflatten(flat)


def make_recalibrate(
  model: nn.Module, mapping: ClientMapping, batch_size: int, transform: Transform
) -> Callable[[Variables, Iterable[Part], Key], PyTree]:
  """Recomputes running statistics with the aggregated weights, in one pass over all clients' data.

  Every client goes once through its examples in training mode (without dropout) and sends the
  moments of each norm's input, which the server merges by the law of total variance.

  Args:
    model: a model whose norms have running statistics and take them from the batch.
    mapping: how clients are mapped; a device takes one after another.
    batch_size: of the pass.
    transform: of the images, without augmentation.

  Returns:
    (variables, the clients' data in parts, key) -> batch_stats. The parts are summed device by
    device, so that the result does not depend on where they are cut.
  """

  def client_sums(variables, data, row, key):
    shift = {layer: leaves["mean"] for layer, leaves in _layers(variables["batch_stats"]).items()}

    data = without_drift(data)

    def moments(step):
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

    steps = jnp.where(row < 0, 0, steps_per_epoch(data.sizes[row], batch_size))
    shapes = jax.eval_shape(moments, jnp.int32(0))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return lax.fori_loop(0, steps, lambda i, total: optax.tree.add(total, moments(i)), zeros)

  def device(shared, item):
    variables, data, key = shared
    total, rows = item

    def body(i, total):
      return optax.tree.add(total, client_sums(variables, data, rows[i], key))

    return (), lax.fori_loop(0, rows.shape[0], body, total)

  def begin(variables: Variables) -> PyTree:
    """A zero for each device, layer and sum: count [D], and two of [D, G]."""
    zeros = {}
    for layer, leaves in _layers(variables["batch_stats"]).items():
      by_group = jnp.zeros((mapping.num_devices, *leaves["mean"].shape), jnp.float32)
      zeros[layer] = (jnp.zeros(mapping.num_devices, jnp.float32), by_group, by_group)
    return zeros

  def add(totals: PyTree, variables: Variables, part: Part, key: Key) -> PyTree:
    held = (False, True, False)
    return mapping.map_reduce(device, (variables, part.data, key), (totals, part.rows), held)[1]

  def finish(totals: PyTree, variables: Variables) -> PyTree:
    sums, _ = mapping.map_reduce(lambda shared, total: (total, ()), (), totals)
    flat = {}
    for layer, leaves in _layers(variables["batch_stats"]).items():
      merged = from_sums(sums[layer], leaves["mean"])
      flat[f"{layer}/mean"] = merged.mean
      if "var" in leaves:
        flat[f"{layer}/var"] = merged.unbiased_variance
    return tree_leaves.unflatten(flat)

  compiled_begin, compiled_add, compiled_finish = (
    jax.jit(function, out_shardings=mapping.sharding) for function in (begin, add, finish)
  )

  def recalibrate(variables: Variables, parts: Iterable[Part], key: Key) -> PyTree:
    totals = compiled_begin(variables)
    for part in parts:
      # One part after the other, or all that are read ahead of the work would wait in memory.
      totals = jax.block_until_ready(compiled_add(totals, variables, part, key))
    return compiled_finish(totals, variables)

  return recalibrate
