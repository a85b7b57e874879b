"""An ensemble of models that are cut and trained together in split learning (paper 003, sec. 6)."""

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
"""The stages of an ensemble; only with a U-shaped split (outputs on the client) is there a tail."""

LOGITS = "logits"
"""The flax collection to which evaluation writes the members' logits, if it is mutable."""


class Member(NamedTuple):
  """One model of an ensemble.

  Attributes:
    build: (parent, name, norm) -> flax module of the model.
    norm: norm of the model; only its groups can differ from those of the ensemble's norm.
    spans: for each stage of the ensemble, (begin, end) of this model's stages that belong to it.
  """

  build: Callable[..., Staged]
  norm: NormSpec
  spans: tuple[tuple[int, int], ...]


class Ensemble(Staged):
  """M models (members) that run in parallel, each with a separate cut.

  Each stage runs the corresponding stages of every member and outputs one tensor per member. The
  parameters of member i are under ``member<i>``. The outputs are the members' logits [N, M, C] in
  training (see ``objectives.OBJECTIVES``), and the logits of the majority vote [N, C] in
  evaluation.

  Attributes:
    norm: norm of all members, up to its groups.
    members: two or more models.
  """

  norm: NormSpec
  members: tuple[Member, ...]

  def stages(self) -> Sequence[Stage]:
    """Returns the stages client and server, and tail if the members' spans include one."""

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
