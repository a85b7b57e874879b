"""Several models as one ensemble that trains in one exchange of messages (paper 003, sec. 6)."""

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
"""The stages of an ensemble; only the U-shape has the tail."""

LOGITS = "logits"
"""The collection of the members' logits, written in evaluation if it is mutable."""


class Member(NamedTuple):
  """One model of an ensemble.

  Attributes:
    build: (parent, name, norm) -> the member's module.
    norm: norm of the member; only its groups can differ from the ensemble's.
    spans: (begin, end) of the member's stages that form each stage of the ensemble.
  """

  build: Callable[..., Staged]
  norm: NormSpec
  spans: tuple[tuple[int, int], ...]


class Ensemble(Staged):
  """Members with separate cuts that run in parallel.

  Each stage runs the corresponding stages of every member; one tensor per member crosses to the
  next stage. The parameters of member i are under ``member<i>``. In training the outputs are the
  members' logits [N, M, C] (see ``objectives.OBJECTIVES['ensemble']``), in evaluation those of the
  majority vote [N, C].

  Attributes:
    norm: common settings of the members' norms.
    members: two or more members.
  """

  norm: NormSpec
  members: tuple[Member, ...]

  def stages(self) -> Sequence[Stage]:
    """Returns the stages client and server, and tail if the members have one."""

    @functools.cache  # a call that runs several stages builds each member once
    def member_module(index: int) -> Staged:
      member = self.members[index]
      groups, group_size = member.norm.groups, member.norm.group_size
      norm = dataclasses.replace(self.norm, groups=groups, group_size=group_size)
      return member.build(parent=self, name=f"member{index}", norm=norm)

    def stage(position: int) -> Stage:
      def run(x: Array | tuple[Array, ...], mode: Mode) -> Array | tuple[Array, ...]:
        mode = mode._replace(objective="classification")
        inputs = x if position else (x,) * len(self.members)
        outputs = tuple(
          member_module(index)(inputs[index], mode, *member.spans[position])
          for index, member in enumerate(self.members)
        )
        if position < last:
          return outputs
        logits = jnp.stack(outputs, 1)
        if mode.train:
          return logits
        logits = logits.astype(jnp.float32)
        if not self.is_initializing():
          self.sow(LOGITS, "each", logits)
        return majority(logits)

      return STAGES[position], run

    last = len(self.members[0].spans) - 1
    return tuple(stage(position) for position in range(last + 1))
