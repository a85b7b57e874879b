"""How SplitFed averages what clients made of the same part (Thapa et al. 2022)."""

import optax

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
    "params": optax.tree.scale(weight, optax.tree.sub(params_of(new), params_of(old))),
    "stats": policy.to_sums(stats_of(new), weight, stats_of(old)),
    "momentum": optax.tree.scale(weight, new.opt_state) if momentum else (),
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
    variables["params"] = optax.tree.add(
      variables["params"], optax.tree.scale(1 / weight, sums["params"])
    )
  if "batch_stats" in variables:
    variables["batch_stats"] = policy.from_sums(sums["stats"], weight, variables["batch_stats"])
  return Part(variables, optax.tree.scale(1 / weight, sums["momentum"]))
