"""Averages the parts that SplitFed's clients trained in a round (Thapa et al. 2022)."""

import optax

from fedjax_norm.algorithms.batch_statistics import Combiner
from fedjax_norm.split.parties import Part
from fedjax_norm.split.state import params_of, stats_of
from fedjax_norm.typing import Array, PyTree


def to_sums(old: Part, new: Part, weight: Array, policy: Combiner, momentum: bool) -> PyTree:
  """Returns one client's summands of the average.

  Args:
    old: part at the start of the turn.
    new: part at the end of the turn.
    weight: weight of the client, float32.
    policy: combiner of running statistics.
    momentum: whether optimizer states are averaged too.
  """
  return {
    "params": optax.tree.scale(weight, optax.tree.sub(params_of(new), params_of(old))),
    "stats": policy.to_sums(stats_of(new), weight, stats_of(old)),
    "momentum": optax.tree.scale(weight, new.opt_state) if momentum else (),
  }


def from_sums(old: Part, sums: PyTree, weight: Array, policy: Combiner) -> Part:
  """Returns the averaged part.

  Args:
    old: part that all turns started from.
    sums: sum of :func:`to_sums` over the clients.
    weight: sum of the clients' weights.
    policy: combiner of running statistics.
  """
  variables = dict(old.variables)
  if "params" in variables:
    variables["params"] = optax.tree.add(
      variables["params"], optax.tree.scale(1 / weight, sums["params"])
    )
  if "batch_stats" in variables:
    variables["batch_stats"] = policy.from_sums(sums["stats"], weight, variables["batch_stats"])
  return Part(variables, optax.tree.scale(1 / weight, sums["momentum"]))
