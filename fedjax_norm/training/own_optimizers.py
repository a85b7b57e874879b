"""Refuses user-defined optimizers that would raise the loss."""

from typing import Any

import optax

from fedjax_norm.errors import UserError
from fedjax_norm.typing import PyTree

# How long an optimizer may rest at first: it accumulates gradients, or warms up.
_FIRST_UPDATES = 64

# Option -> the sign that its updates must have relative to the gradient, and what to do otherwise.
_DIRECTIONS = {
  "optimizer": (
    1,
    "lowers the loss by itself, but its updates are multiplied by minus the learning rate; pass it "
    "without a rate, as in optax.scale_by_adam() instead of optax.adam(), and the rate as lr.",
  ),
  "own_server_optimizer": (
    -1,
    "has no negative learning rate, so that it would raise the loss; pass it with its rate, as in "
    "optax.adam(0.01) instead of optax.scale_by_adam().",
  ),
}


def check(config: Any, params: PyTree) -> None:
  """Raises UserError if a user-defined optimizer would lead uphill.

  The updates of a client's ``optimizer`` are multiplied by minus the learning rate, so that they
  must have the gradient's direction; those of ``own_server_optimizer`` are added as they are.
  """
  for name, (sign, words) in _DIRECTIONS.items():
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
