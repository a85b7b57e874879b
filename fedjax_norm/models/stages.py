"""A model as a sequence of named stages, so that it can be cut between any two of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from flax import linen as nn

from fedjax_norm.errors import UserError
from fedjax_norm.models.flops import layer_macs, one_example
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array

Stage = tuple[str, Callable[[Array, Mode], Array]]
"""(its name, what it does); the function makes its layers under explicit names."""


class Staged(nn.Module):
  """A model that is its stages, one after another; any stretch of them runs by itself.

  The layers of a stage have names of their own, whatever stages run, so that a part's variables are
  those of the whole at the same paths, and are initialized to the same values by the same key.
  """

  def stages(self) -> Sequence[Stage]:
    """The stages in order."""
    raise NotImplementedError

  @nn.compact
  def __call__(self, x: Array, mode: Mode, begin: int = 0, end: int | None = None) -> Array:
    """Images [N, H, W, C] -> outputs; of a stretch, what its stages take and give.

    Args:
      x: images, or what stage ``begin - 1`` gave.
      mode: how the pass is meant.
      begin: the first stage that runs.
      end: the stage before which it stops; None is the end.
    """
    for _, stage in self.stages()[begin:end]:
      x = stage(x, mode)
    return x


def stage_names(model: Staged) -> tuple[str, ...]:
  """The names of a model's stages, in order."""
  return tuple(name for name, _ in model.stages())


class StageInfo(NamedTuple):
  """What is known of a stage.

  Attributes:
    name: of the stage.
    shape: of what it gives for one example; of each tensor, where it gives several.
    parameters: how many numbers it learns.
    batch_stats: how many numbers of running statistics it holds.
    macs: multiply-adds of its layers on one example's way forward (see ``flops.layer_macs``).
  """

  name: str
  shape: tuple[Any, ...]
  parameters: int
  batch_stats: int
  macs: int

  @property
  def parametric(self) -> bool:
    """Whether it learns anything."""
    return self.parameters > 0


def describe(model: Staged, image_shape: tuple[int, int, int]) -> tuple[StageInfo, ...]:
  """A model's stages; it is run on shapes alone.

  Args:
    model: the whole.
    image_shape: (H, W, C).
  """
  infos, shape = [], tuple(image_shape)
  for index, name in enumerate(stage_names(model)):

    def run(shape=shape, index=index):
      x = one_example(shape)
      return model.init_with_output(jax.random.key(0), x, Mode(), index, index + 1)

    y, variables = jax.eval_shape(run)
    parameters, statistics = (
      optax.tree.size(variables.get(kind, {})) for kind in ("params", "batch_stats")
    )
    macs = sum(layer_macs(model, shape, index, index + 1).values())
    shape = jax.tree.map(lambda a: a.shape[1:], y)
    infos.append(StageInfo(name, shape, parameters, statistics, macs))
  return tuple(infos)


def position(model: Staged, name: str, image_shape: tuple[int, int, int] | None = None) -> int:
  """How many stages there are up to and including the one of this name: the cut lies after it.

  Args:
    model: the whole.
    name: of the last stage before the cut.
    image_shape: (H, W, C); with it, a cut before which nothing is learnt is refused too.

  Raises:
    UserError: an unknown stage, the last one, or a cut before the first stage with parameters.
  """
  names = stage_names(model)
  if name not in names:
    raise UserError(f"unknown stage {name!r}; the model can be cut after {', '.join(names[:-1])}.")
  if name == names[-1]:
    raise UserError(
      f"stage {name!r} is the last, after which nothing is left for the other party; cut after one "
      f"of {', '.join(names[:-1])}."
    )
  place = names.index(name) + 1
  if image_shape is not None:
    infos = describe(model, image_shape)
    if not any(info.parametric for info in infos[:place]):
      later = [info.name for info in infos[:-1] if info.parametric]
      raise UserError(
        f"the cut after {name!r} lies before the first stage with parameters, so that raw images "
        f"would cross; cut after {', '.join(later)}."
      )
  return place
