"""The optimizer of the clients' local steps."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_norm import tree_leaves
from fedjax_norm.errors import UserError
from fedjax_norm.local_training.config import SgdConfig
from fedjax_norm.typing import PyTree

# How long an optimizer may rest at first: it accumulates gradients, or warms up.
_FIRST_UPDATES = 64


def optimizer(config: SgdConfig) -> optax.GradientTransformation:
  """Returns clipping, weight decay and momentum, or the user-defined optimizer in ``config``.

  The caller multiplies the updates by minus the learning rate. The optimizer's state has the same
  structure with and without clipping and frozen parameters, so that momentum survives when FixBN
  freezes statistics and continues with other options.
  """

  def freeze(updates: PyTree, params: PyTree) -> PyTree:
    del params
    frozen = tree_leaves.pick(updates, config.frozen_paths)
    return tree_leaves.put(updates, jax.tree.map(jnp.zeros_like, frozen))

  frozen = optax.stateless(freeze) if config.frozen_paths else optax.identity()
  if config.optimizer is not None:
    return optax.chain(frozen, config.optimizer, frozen)
  return optax.chain(
    frozen,  # so that frozen parameters do not count towards the norm that is clipped
    optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
    optax.add_decayed_weights(config.weight_decay) if config.weight_decay else optax.identity(),
    optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity(),
    frozen,  # so that neither weight decay nor earlier momentum moves frozen parameters
  )


def check_optimizers(config: Any, params: PyTree) -> None:
  """Raises UserError if a user-defined optimizer would lead uphill.

  The updates of a client's ``optimizer`` are multiplied by minus the learning rate, so that they
  must have the gradient's direction; those of ``own_server_optimizer`` are added as they are.
  """
  advice = {
    "optimizer": (1, "lowers the loss by itself, but its updates are multiplied by minus the "
      "learning rate; pass it without a rate, as in optax.scale_by_adam() instead of optax.adam(), "
      "and the rate as lr."),
    "own_server_optimizer": (-1, "has no negative learning rate, so that it would raise the loss; "
      "pass it with its rate, as in optax.adam(0.01) instead of optax.scale_by_adam()."),
  }  # fmt: skip
  for name, (sign, words) in advice.items():
    one = getattr(config, name, None)
    if one is not None and sign * _direction(name, one, params) < 0:
      raise UserError(f"{name} {words}")


def _direction(name: str, one: optax.GradientTransformation, params: PyTree) -> float:
  """Returns the product of a gradient and the first update for it that is not zero, or 0."""
  gradient, state = optax.tree.ones_like(params), one.init(params)
  for _ in range(_FIRST_UPDATES):
    try:
      update, state = one.update(gradient, state, params)
    except TypeError as error:
      raise UserError(
        f"{name} needs more than gradients and parameters, which is all that it gets here "
        f"({error}); choose an optimizer without further arguments."
      ) from error
    if product := float(optax.tree.vdot(gradient, update)):
      return product
  return 0.0
