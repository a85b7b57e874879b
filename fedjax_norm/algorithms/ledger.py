"""What a client sends and receives in a round, from the trees that cross."""

from collections.abc import Callable, Collection
from typing import Any

import jax
from flax import linen as nn

from fedjax_norm import comm, models, trees
from fedjax_norm.comm import Cost
from fedjax_norm.typing import PyTree, Variables


def model_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> Variables:
  """The shapes of a model's variables, without computing any."""
  return jax.eval_shape(lambda: models.init(model, jax.random.key(0), image_shape))


def exchange_cost(
  model: nn.Module, image_shape: tuple[int, int, int], policy: str, up: PyTree, down: PyTree
) -> Cost:
  """The cost of a round that sends these trees and what the norm needs besides.

  Args:
    model: its norm bound to no axis.
    image_shape: (H, W, C).
    policy: how running statistics are combined; it decides which of them cross.
    up: what a client sends besides running statistics, arrays or their shapes.
    down: what a client receives besides running statistics.
  """
  spec = model.norm
  stats = trees.num_bytes(model_shapes(model, image_shape).get("batch_stats", {}))
  shared = policy in ("mean", "moments")
  # A client gets the whole model, frozen statistics too.
  stats_down = stats * (shared or (policy == "recalibrate" and not spec.updates_running_statistics))
  stats_up = stats * (shared and spec.updates_running_statistics)
  norms = list(models.norm_modules(model, image_shape).values())
  return Cost(
    trees.num_bytes(up) + stats_up,
    trees.num_bytes(down) + stats_down,
    *comm.lockstep_cost(spec, norms),
  )


def without(tree: PyTree, params: PyTree, paths: Collection[str]) -> PyTree:
  """The tree with None at some paths of each subtree that has the parameters' structure."""
  if not paths:
    return tree
  return _of_params(tree, params, lambda part: trees.put(part, dict.fromkeys(paths)))


def filled(tree: PyTree, params: PyTree, paths: Collection[str]) -> PyTree:
  """The inverse of :func:`without`: zeros where it left nothing."""
  if not paths:
    return tree
  zeros = jax.tree.map(jax.numpy.zeros_like, trees.pick(params, paths))
  return _of_params(tree, without(params, params, paths), lambda part: trees.put(part, zeros))


def _of_params(tree: PyTree, params: PyTree, change: Callable[[Any], Any]) -> PyTree:
  structure: Any = jax.tree.structure(params)

  def has_structure(part: Any) -> bool:
    return structure == jax.tree.structure(part)

  return jax.tree.map(
    lambda part: change(part) if has_structure(part) else part, tree, is_leaf=has_structure
  )
