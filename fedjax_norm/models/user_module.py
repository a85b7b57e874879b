"""Checks user-defined flax modules and makes them usable as models."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode, NormSpec, create
from fedjax_norm.typing import Array

_KEYWORDS = ("mode", "train", "training", "deterministic")


class UserModule(nn.Module):
  """Wraps a flax module without a norm of this library; the variables keep their paths.

  Attributes:
    module: user-defined module; called with the images, and with ``mode``, ``train``, ``training``
      or ``deterministic`` if its ``__call__`` has such parameters.
    norm: always the norm ``none``.
  """

  module: nn.Module
  norm: NormSpec = create("none")

  def setup(self) -> None:
    """Shares the flax scope of the module, so that paths of variables do not change."""
    nn.share_scope(self, self.module)

  def __call__(self, x: Array, mode: Mode) -> Array:
    """Maps images [N, H, W, C] to the outputs of the module."""
    train = mode.train and mode.dropout
    values = dict(zip(_KEYWORDS, (mode, train, train, not train), strict=True))
    return self.module(
      x, **{name: values[name] for name in _KEYWORDS if name in _parameters(self.module)}
    )


def adapt(
  module: nn.Module,
  norm: NormSpec | None,
  image_shape: tuple[int, int, int],
  output_shape: tuple[int, ...],
) -> nn.Module:
  """Returns a user-defined module as a model that the library can train.

  A module with a field ``norm`` (a NormSpec) and a parameter ``mode`` of ``__call__`` is returned
  unchanged. Any other module is wrapped in :class:`UserModule`.

  Args:
    module: flax module that is called with images [N, H, W, C].
    norm: required norm; None accepts the norm of the module.
    image_shape: (H, W, C).
    output_shape: required shape of the output for one image.

  Raises:
    UserError: the module does not have the required norm, needs further arguments, has batch
      statistics that the library does not update, or has outputs of another shape.
  """
  name = type(module).__name__
  module_norm = getattr(module, "norm", None)
  if isinstance(module_norm, NormSpec) and "mode" in _parameters(module):
    model = module
    if norm not in (None, module_norm):
      raise UserError(
        f"{name} has norm {module_norm.name!r} already; drop norm, or give it to the module."
      )
  else:
    model = UserModule(module)
    if norm not in (None, model.norm):
      raise UserError(
        f"{name} does not take a norm, so {norm.name!r} would have no effect; drop norm, or "
        "give the module a field norm and a parameter mode."
      )
    for p in list(_parameters(module).values())[1:]:
      if p.name not in _KEYWORDS and p.default is p.empty and p.kind is not p.VAR_KEYWORD:
        raise UserError(
          f"{name}.__call__ requires the parameter {p.name!r}; after the images it can only have "
          f"the parameters {', '.join(_KEYWORDS)}."
        )
  check_statistics(model, image_shape)
  outputs = jax.eval_shape(lambda: _init(model, image_shape)[0])
  shape = getattr(outputs, "shape", (0,))[1:]
  if shape != output_shape:
    actual, needed = ("x".join(map(str, sizes)) for sizes in (shape, output_shape))
    raise UserError(
      f"{name} has {actual or 'no array of'} outputs per image and the task needs {needed}; change "
      "its last layer."
    )
  return model


def check_statistics(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
  """Checks that a module only has variables that the library updates in training.

  Raises:
    UserError: the module has no field ``norm``, or has variables other than the parameters and the
      running statistics of this norm.
  """
  spec = getattr(model, "norm", None)
  name = type(getattr(model, "module", model)).__name__
  if not isinstance(spec, NormSpec):
    raise UserError(
      f"{name} has no field norm with a NormSpec; pass the module to make_task, which wraps it."
    )
  updated = {"params"} | ({"batch_stats"} if spec.has_running_statistics else set())
  if others := set(jax.eval_shape(lambda: _init(model, image_shape)[1])) - updated:
    raise UserError(
      f"{name} keeps variables in {min(others)!r}, which norm {spec.name!r} never updates, so it "
      "would be tested with their initial values; normalize with fedjax_norm.norm.Norm, "
      "nn.GroupNorm or nn.LayerNorm instead of nn.BatchNorm."
    )


def _init(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Any, Mapping[str, Any]]:
  return model.init_with_output(jax.random.key(0), jnp.zeros((1, *image_shape)), Mode())


def _parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
  return inspect.signature(module.__call__).parameters
