"""Flax modules of the user's own as models."""

import inspect

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode, NormSpec, create
from fedjax_norm.typing import Array

_PASSED = ("mode", "train", "training", "deterministic")


class UserModule(nn.Module):
  """A module that knows no norm of ours; its variables are the module's own, at the same paths.

  Attributes:
    module: called with the images, and with ``mode``, ``train``, ``training`` or ``deterministic``
      where its ``__call__`` has such parameters.
    norm: what the algorithms are told: that no norm of theirs is in it.
  """

  module: nn.Module
  norm: NormSpec = create("none")

  def setup(self):
    """Shares the scope of the module, so that no path gets longer."""
    nn.share_scope(self, self.module)

  def __call__(self, x: Array, mode: Mode) -> Array:
    """Images [N, H, W, C] -> what the module gives."""
    train = mode.train and mode.dropout
    values = dict(zip(_PASSED, (mode, train, train, not train), strict=True))
    return self.module(
      x, **{name: values[name] for name in _PASSED if name in _parameters(self.module)}
    )


def adapt(
  module: nn.Module,
  norm: NormSpec | None,
  image_shape: tuple[int, int, int],
  output_shape: tuple[int, ...],
) -> nn.Module:
  """A user's module as a model.

  One that has a field ``norm`` with a NormSpec and takes a ``mode``, as ours do, stays as it is.
  Any other one is wrapped.

  Args:
    module: takes images [N, H, W, C].
    norm: what the caller asked for; None is what the module has.
    image_shape: (H, W, C).
    output_shape: what an image must give.

  Raises:
    UserError: a norm that the module would not have, further arguments that it needs, batch
      statistics of its own, or outputs of another shape.
  """
  name = type(module).__name__
  own = getattr(module, "norm", None)
  if isinstance(own, NormSpec) and "mode" in _parameters(module):
    model = module
    if norm not in (None, own):
      raise UserError(f"{name} has norm {own.name!r} already; drop the norm, or build it with it.")
  else:
    model = UserModule(module)
    if norm not in (None, model.norm):
      raise UserError(
        f"{name} does not take a norm, so {norm.name!r} would do nothing; drop the norm, or give "
        "the module a field norm and a parameter mode."
      )
    for one in list(_parameters(module).values())[1:]:
      if one.name not in _PASSED and one.default is one.empty and one.kind is not one.VAR_KEYWORD:
        raise UserError(
          f"{name}.__call__ needs {one.name!r}, which nobody gives it; besides images it may need "
          f"{', '.join(_PASSED)}."
        )
  check_statistics(model, image_shape)
  outputs = jax.eval_shape(lambda: _init(model, image_shape)[0])
  shape = getattr(outputs, "shape", (0,))[1:]
  if shape != output_shape:
    given, needed = ("x".join(map(str, sides)) for sides in (shape, output_shape))
    raise UserError(
      f"{name} gives {given or 'no array of'} outputs an image and the task needs {needed}; change "
      "its last layer."
    )
  return model


def check_statistics(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
  """Refuses a module whose batch statistics nobody would update.

  Raises:
    UserError: the module has no norm, or has variables that its norm does not know of.
  """
  spec = getattr(model, "norm", None)
  name = type(getattr(model, "module", model)).__name__
  if not isinstance(spec, NormSpec):
    raise UserError(
      f"{name} has no field norm with a NormSpec; pass the module to make_task, which wraps it."
    )
  kept = {"params"} | ({"batch_stats"} if spec.has_running_statistics else set())
  if others := set(jax.eval_shape(lambda: _init(model, image_shape)[1])) - kept:
    raise UserError(
      f"{name} keeps variables in {min(others)!r}, which norm {spec.name!r} never updates, so it "
      "would be tested with the initial ones; normalize with fedjax_norm.norm.Norm, nn.GroupNorm "
      "or nn.LayerNorm in place of nn.BatchNorm."
    )


def _init(model: nn.Module, image_shape: tuple[int, int, int]):
  return model.init_with_output(jax.random.key(0), jnp.zeros((1, *image_shape)), Mode())


def _parameters(module: nn.Module):
  return inspect.signature(module.__call__).parameters
