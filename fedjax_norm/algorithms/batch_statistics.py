"""How the server combines the clients' running statistics (``batch_stats``) or recomputes them."""

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
  """The data of some of the clients, for recalibration on D devices.

  Attributes:
    data: examples of these clients.
    rows: [D, n] int32, rows of ``data`` that each device processes sequentially; -1 is padding.
  """

  data: FederatedData
  rows: Array


class Combiner(NamedTuple):
  """A ``batch_stats`` policy as two functions, before and after the sum over clients.

  Attributes:
    to_sums: (client's statistics, client's weight, server's statistics) -> arrays that are summed
      over the clients of a round.
    from_sums: (sums, sum of weights, server's old statistics) -> server's new statistics.
  """

  to_sums: Callable[[PyTree, Array, PyTree], PyTree]
  from_sums: Callable[[PyTree, Array, PyTree], PyTree]

  def combine(self, variables: Variables, sums: PyTree, total: Array) -> Variables:
    """Returns the server's variables with new running statistics, if the model has any."""
    if "batch_stats" not in variables:
      return variables
    return {**variables, "batch_stats": self.from_sums(sums, total, variables["batch_stats"])}


def check_policy(policy: str, spec: NormSpec) -> None:
  """Raises UserError if ``batch_stats`` does not compute the statistics that the norm needs."""
  if not spec.has_running_statistics and policy != "mean":
    raise UserError(
      f"norm {spec.name!r} keeps no running statistics, so --batch_stats={policy} would have no "
      "effect; drop --batch_stats or choose a norm with running statistics, such as --norm=bn."
    )
  if spec.freezes_statistics and policy == "local":
    raise UserError(
      "FixBN freezes global statistics, which --batch_stats=local and --fedbn do not compute; give "
      "--batch_stats=mean, moments or recalibrate, without --fedbn."
    )
  if spec.across_clients and policy == "recalibrate":
    raise UserError(
      f"norm {spec.name!r} merges the clients' batches, but --batch_stats=recalibrate passes over "
      "each client's data separately; give --batch_stats=mean or moments."
    )
  if spec.source == "corrected" and policy == "recalibrate":
    raise UserError(
      "batch renormalization trains with running statistics, which --batch_stats=recalibrate "
      "computes only before evaluations; give --batch_stats=mean, moments or local."
    )


def combiner(policy: str) -> Combiner:
  """Returns the two functions of a ``batch_stats`` policy.

  ``mean`` averages means and variances, as FedAvg usually does. ``moments`` is the law of total
  variance, which includes the variance between clients: var = sum p_i (var_i + (mean_i - mean)^2).
  With ``local``, ``recalibrate`` and ``frozen`` clients send no statistics in a round, and the
  server's statistics do not change.
  """
  match policy:
    case "mean":
      return Combiner(
        lambda stats, weight, server: optax.tree.scale(weight, stats),
        lambda sums, total, server: optax.tree.scale(1 / total, sums),
      )
    case "moments":
      return Combiner(
        _moment_sums, lambda sums, total, server: _merged(sums, server, lambda m: m.m2 / m.count)
      )
    case _:
      return Combiner(lambda stats, weight, server: (), lambda sums, total, server: server)


def _by_layer(stats: PyTree) -> dict[str, dict[str, Array]]:
  """Returns {path of a norm layer: {name of a statistic: array}}."""
  layers: dict[str, dict[str, Array]] = {}
  for path, leaf in tree_leaves.flatten(stats).items():
    layer, _, name = path.rpartition("/")
    layers.setdefault(layer, {})[name] = leaf
  return layers


def _moment_sums(stats: PyTree, weight: Array, server: PyTree) -> PyTree:
  shifts, sums = _by_layer(server), {}
  for layer, leaves in _by_layer(stats).items():
    mean = leaves["mean"]
    moments = Moments(weight, mean, weight * leaves.get("var", jnp.zeros_like(mean)))
    sums[layer] = to_sums(moments, shifts[layer]["mean"])
  return sums


def _merged(sums: PyTree, server: PyTree, variance: Callable[[Moments], Array]) -> PyTree:
  """Returns statistics of the server's structure from the sums of the clients' moments."""
  flat = {}
  for layer, leaves in _by_layer(server).items():
    moments = from_sums(sums[layer], leaves["mean"])
    flat[f"{layer}/mean"] = moments.mean
    if "var" in leaves:
      flat[f"{layer}/var"] = variance(moments)
  return tree_leaves.unflatten(flat)


def make_recalibrate(
  model: nn.Module, mapping: ClientMapping, batch_size: int, transform: Transform
) -> Callable[[Variables, Iterable[DataPart], Key], PyTree]:
  """Makes a function that recomputes running statistics in one pass over all clients' data.

  The function is ``recalibrate(variables, parts, key) -> batch_stats``, where ``parts`` are all
  clients' data. With the global weights, every client processes its examples once in training mode,
  in batches of ``batch_size`` without dropout and augmentation (``transform``), and sends the
  moments of each norm's input. The server merges the moments by the law of total variance. Each
  device adds up the moments of its clients first, so that the result does not depend on the
  division into parts.

  The norms of ``model`` must have running statistics and normalize with the batch in training.
  """

  def client_sums(variables: Variables, data: FederatedData, row: Array, key: Key) -> PyTree:
    shift = {layer: leaves["mean"] for layer, leaves in _by_layer(variables["batch_stats"]).items()}
    data = federated.without_drift(data)

    def moments(step: Array) -> PyTree:
      batch = draw(data, row, step, batch_size, transform, key)
      mode = Mode(train=True, dropout=False, mask=batch.mask, step=jnp.int32(0))
      _, out = model.apply(variables, batch.images, mode, mutable=["moments"])
      layers = _by_layer(out["moments"])
      return {layer: to_sums(layers[layer]["batch"], mean) for layer, mean in shift.items()}

    steps = jnp.where(row < 0, 0, federated.steps_per_epoch(data.sizes[row], batch_size))
    zeros = optax.tree.zeros_like(jax.eval_shape(moments, jnp.int32(0)))
    return lax.fori_loop(0, steps, lambda i, total: optax.tree.add(total, moments(i)), zeros)

  def add_clients(shared: Any, item: Any) -> tuple[tuple[()], PyTree]:
    """Adds the sums of moments of a device's clients to the device's total."""
    variables, data, key = shared
    total, rows = item

    def body(i: Array, total: PyTree) -> PyTree:
      return optax.tree.add(total, client_sums(variables, data, rows[i], key))

    return (), lax.fori_loop(0, rows.shape[0], body, total)

  def begin(variables: Variables) -> PyTree:
    """Returns zeros for each layer: count [D] and two sums [D, G] (D devices, G groups)."""
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
    return _merged(sums, variables["batch_stats"], lambda moments: moments.unbiased_variance)

  compiled_begin, compiled_add, compiled_finish = (
    jax.jit(function, out_shardings=mapping.sharding) for function in (begin, add, finish)
  )

  def recalibrate(variables: Variables, parts: Iterable[DataPart], key: Key) -> PyTree:
    totals = compiled_begin(variables)
    for part in parts:
      # Waits for each part, because parts that are read ahead would fill the device memory.
      totals = jax.block_until_ready(compiled_add(totals, variables, part, key))
    return compiled_finish(totals, variables)

  return recalibrate
