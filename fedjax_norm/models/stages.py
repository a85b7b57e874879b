"""A model as a sequence of named stages, so that it can be cut between any two of them."""

from collections.abc import Callable, Sequence

from flax import linen as nn

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
