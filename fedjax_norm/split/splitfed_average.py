"""Averages the model parts that SplitFed's clients train in a round (Thapa et al. 2022)."""

import optax

from fedjax_norm.algorithms.batch_statistics import Combiner
from fedjax_norm.split.parties import Part
from fedjax_norm.split.state import params_of, stats_of
from fedjax_norm.typing import Array, PyTree


def to_sums(old: Part, new: Part, weight: Array, policy: Combiner, momentum: bool) -> PyTree:
  """Returns what one client adds to the sums that :func:`from_sums` divides by the total weight.

  Args:
    old: the client's part before its training in a round.
    new: the client's part after it.
    weight: weight of the client in the average, float32.
    policy: combiner of running statistics.
    momentum: whether optimizer states are averaged too.
  """
  return {
    "params": optax.tree.scale(weight, optax.tree.sub(params_of(new), params_of(old))),
    "stats": policy.to_sums(stats_of(new), weight, stats_of(old)),
    "momentum": optax.tree.scale(weight, new.opt_state) if momentum else (),
  }


def from_sums(old: Part, sums: PyTree, weight: Array, policy: Combiner) -> Part:
  """Returns the weighted mean of the clients' parts.

  Args:
    old: part that all clients started from.
    sums: sum of the results of :func:`to_sums` over the clients.
    weight: sum of the clients' weights.
    policy: combiner of running statistics.
  """
  variables = dict(old.variables)
  if "params" in variables:
    mean = optax.tree.scale(1 / weight, sums["params"])
    variables["params"] = optax.tree.add(variables["params"], mean)
  if "batch_stats" in variables:
    variables["batch_stats"] = policy.from_sums(sums["stats"], weight, variables["batch_stats"])
  return Part(variables, optax.tree.scale(1 / weight, sums["momentum"]))
