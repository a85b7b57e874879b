"""Several topologies as one model, so that they train in one exchange (paper 003, sec. 6)."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, NormSpec
from fedjax_norm.objectives import majority
from fedjax_norm.typing import Array

STAGES = ("client", "server", "tail")
"""The stages of an ensemble; the tail in the U-shape alone."""

LOGITS = "logits"
"""The collection that evaluation writes the members' own logits to, where it is mutable."""


class Member(NamedTuple):
  """One topology.

  Attributes:
    build: (parent, name, norm) -> its module.
    norm: its own; only its groups differ from the ensemble's.
    spans: (begin, end) of its own stages in each of the ensemble's.
  """

  build: Callable[..., Staged]
  norm: NormSpec
  spans: tuple[tuple[int, int], ...]


class Ensemble(Staged):
  """Members that run side by side, each cut in its own place.

  The stages run the same stretch of every member; between them is a tuple of one tensor a member.
  Member i has its parameters under ``member<i>``. In training the outputs are the members' logits
  [N, M, C] (see ``objectives.OBJECTIVES['ensemble']``), in evaluation the majority vote's [N, C].

  Attributes:
    norm: what the members' norms have in common.
    members: two or more.
  """

  norm: NormSpec
  members: tuple[Member, ...]

  def stages(self) -> Sequence[Stage]:
    """client and server, and tail if the members have one."""

    @functools.cache  # a stretch of several stages makes each member once
    def member(index: int) -> Staged:
      build, own, _ = self.members[index]
      norm = dataclasses.replace(self.norm, groups=own.groups, group_size=own.group_size)
      return build(parent=self, name=f"member{index}", norm=norm)

    def stage(place: int) -> Stage:
      def run(x: Array | tuple[Array, ...], mode: Mode) -> Array | tuple[Array, ...]:
        mode = mode._replace(objective="classification")
        inputs = x if place else (x,) * len(self.members)
        outputs = tuple(
          member(index)(inputs[index], mode, *known.spans[place])
          for index, known in enumerate(self.members)
        )
        if place < last:
          return outputs
        logits = jnp.stack(outputs, 1)
        if mode.train:
          return logits
        logits = logits.astype(jnp.float32)
        if not self.is_initializing():
          self.sow(LOGITS, "each", logits)
        return majority(logits)

      return STAGES[place], run

    last = len(self.members[0].spans) - 1
    return tuple(stage(place) for place in range(last + 1))
