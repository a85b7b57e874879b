"""Models as sequences of named stages (groups of layers), which can be cut between two stages."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from fedjax_norm.errors import UserError
from fedjax_norm.models.flops import layer_macs, one_example
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Array

Stage = tuple[str, Callable[[Array, Mode], Array]]
"""(name, function of an activation); the function gives explicit names to the layers it creates."""


class Staged(nn.Module):
  """A model that runs its stages sequentially, or only consecutive ones (a part of the model).

  The names of layers do not depend on the part, so that the variables of a part have the same paths
  as in the whole model, and the same key initializes them to the same values.
  """

  def stages(self) -> Sequence[Stage]:
    """Returns the model's stages in the order in which they run."""
    raise NotImplementedError

  @nn.compact
  def __call__(self, x: Array, mode: Mode, begin: int = 0, end: int | None = None) -> Array:
    """Returns the output of stage ``end - 1``, by default the model's outputs for images x.

    Args:
      x: images [N, H, W, C], or the output of stage ``begin - 1``.
      mode: settings of the forward pass.
      begin: index of the first stage that runs.
      end: index after the last stage that runs; None runs all remaining stages.
    """
    for _, stage in self.stages()[begin:end]:
      x = stage(x, mode)
    return x


def stage_names(model: Staged) -> tuple[str, ...]:
  """Returns the names of a model's stages in the order in which the stages run."""
  return tuple(name for name, _ in model.stages())


class StageInfo(NamedTuple):
  """The sizes of one stage of a model.

  Attributes:
    name: name of the stage.
    shape: shape of the output for one example, or a tuple of shapes for several tensors.
    parameters: number of parameters.
    batch_stats: number of running statistics.
    macs: multiply-adds of the layers in the forward pass of one example (see ``flops.layer_macs``).
  """

  name: str
  shape: tuple[Any, ...]
  parameters: int
  batch_stats: int
  macs: int

  @property
  def parametric(self) -> bool:
    """Whether the stage has parameters."""
    return self.parameters > 0


def describe(model: Staged, image_shape: tuple[int, int, int]) -> tuple[StageInfo, ...]:
  """Returns the sizes of each stage of a model, for images (H, W, C), without running the model."""
  infos, shape = [], tuple(image_shape)
  for index, name in enumerate(stage_names(model)):

    def run(shape: Any = shape, index: int = index) -> Any:
      x = one_example(shape)
      return model.init_with_output(jax.random.key(0), x, Mode(), index, index + 1)

    y, variables = jax.eval_shape(run)
    parameters, statistics = (
      sum(leaf.size for leaf in jax.tree.leaves(variables.get(kind, {})))
      for kind in ("params", "batch_stats")
    )
    macs = sum(layer_macs(model, shape, index, index + 1).values())
    shape = jax.tree.map(lambda a: a.shape[1:], y)
    infos.append(StageInfo(name, shape, parameters, statistics, macs))
  return tuple(infos)


def position(model: Staged, name: str, image_shape: tuple[int, int, int] | None = None) -> int:
  """Returns the number of stages before the cut.

  Args:
    model: the whole model.
    name: name of the last stage before the cut.
    image_shape: (H, W, C); None skips the check that a stage before the cut has parameters.

  Raises:
    UserError: the stage is unknown or the last one, or no stage before the cut has parameters.
  """
  names = stage_names(model)
  if name not in names:
    raise UserError(f"unknown stage {name!r}; the model can be cut after {', '.join(names[:-1])}.")
  if name == names[-1]:
    raise UserError(
      f"stage {name!r} is the last, so no stage is left after the cut; cut after one of "
      f"{', '.join(names[:-1])}."
    )
  count = names.index(name) + 1
  if image_shape is not None:
    infos = describe(model, image_shape)
    if not any(info.parametric for info in infos[:count]):
      later = [info.name for info in infos[:-1] if info.parametric]
      raise UserError(
        f"the cut after {name!r} is before the first stage with parameters, so raw images would "
        f"be sent; cut after {', '.join(later)}."
      )
  return count
