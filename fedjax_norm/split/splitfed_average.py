"""How SplitFed averages what clients made of the same part (Thapa et al. 2022)."""

from fedjax_norm import trees
from fedjax_norm.algorithms.batch_statistics import Combiner
from fedjax_norm.split.parties import Part
from fedjax_norm.split.state import params_of, stats_of
from fedjax_norm.typing import Array, PyTree


def to_sums(old: Part, new: Part, weight: Array, policy: Combiner, momentum: bool) -> PyTree:
  """One client's share in the average, which adding merges.

  Args:
    old: the part that its turn started from.
    new: the part after it.
    weight: of the client, float32.
    policy: of running statistics.
    momentum: whether the optimizer's state is averaged too.
  """
  return {
    "params": trees.scale(trees.subtract(params_of(new), params_of(old)), weight),
    "stats": policy.to_sums(stats_of(new), weight, stats_of(old)),
    "momentum": trees.scale(new.opt_state, weight) if momentum else (),
  }


def from_sums(old: Part, sums: PyTree, weight: Array, policy: Combiner) -> Part:
  """The average.

  Args:
    old: the part that all turns started from.
    sums: of all clients' :func:`to_sums`.
    weight: of all clients together.
    policy: of running statistics.
  """
  variables = dict(old.variables)
  if "params" in variables:
    variables["params"] = trees.add(variables["params"], trees.scale(sums["params"], 1 / weight))
  if "batch_stats" in variables:
    variables["batch_stats"] = policy.from_sums(sums["stats"], weight, variables["batch_stats"])
  return Part(variables, trees.scale(sums["momentum"], 1 / weight))
