"""What both sides compute with: the parties of ``split/``, each compiled by itself."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fedjax_norm import host_memory, models, tree_leaves
from fedjax_norm.errors import UserError
from fedjax_norm.models.stages import Staged, stage_names
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.split.by_messages.training import compiled
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.inference import Evaluate, make_evaluate
from fedjax_norm.split.parties import Part
from fedjax_norm.split.plan import ALICE, segment_shapes
from fedjax_norm.split.rules import Rules, make_rules
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.typing import Key, PyTree
from fedjax_norm.wire.protocol.turns import STEPS


class Network(NamedTuple):
  """A cut model.

  Attributes:
    rules: what each party computes, compiled party by party.
    outputs: of each segment for one example, shapes.
    evaluate: of each segment, (variables, x) -> its output in evaluation, compiled.
    stages: the names of the model's.
    batch_size: of a step.
    label: of one example, a shape.
    num_classes: of the labels.
    begin: key -> the segments' parts that it gives, as a run of the simulation begins.
  """

  rules: Rules
  outputs: tuple[PyTree, ...]
  evaluate: tuple[Evaluate, ...]
  stages: tuple[str, ...]
  batch_size: int
  label: jax.ShapeDtypeStruct
  num_classes: int
  begin: Callable[[Key], tuple[Part, ...]]

  @property
  def bob(self) -> int:
    """Bob's place among the segments."""
    return 1

  @property
  def alice(self) -> tuple[int, ...]:
    """The places of Alice's."""
    return self.rules.plan.owned_by(ALICE)

  def own(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Alice's of all parts."""
    return tuple(parts[index] for index in self.alice)

  @property
  def cut(self) -> str:
    """The last stage of Alice's head."""
    return self.stages[self.rules.plan.segments[0].end - 1]


def make_network(
  model: Staged, config: SplitConfig, image: jax.ShapeDtypeStruct, num_classes: int
) -> Network:
  """A model as the parties of a wire compute with it.

  Args:
    model: the whole.
    config: the options of split learning.
    image: (H, W, C) and the dtype that the model computes in.
    num_classes: of its labels.

  Raises:
    UserError: options that the model denies, or weights that no party could begin with by itself.
  """
  if model.norm.weight_norm:
    raise UserError(
      "weight normalization starts from a batch that goes through the whole model, which no party "
      "of a wire holds; choose another norm."
    )
  if (config.local_steps or 0) >= STEPS:
    raise UserError(f"a turn on a wire has fewer than {STEPS:,} steps; lower --local_steps.")
  label = jax.ShapeDtypeStruct((), np.int32)
  rules = compiled(make_rules(model, config, image, label))
  _, outputs = segment_shapes(model, rules.plan, image)

  @jax.jit
  def begin(key: Key) -> tuple[Part, ...]:
    init_key, _ = jax.random.split(stream(key, Stream.INIT))
    state = rules.init(models.init(model, init_key, image.shape))
    return rules.begin(state, rules.init_client(state))

  batch_size = config.batch_size
  shapes = jax.eval_shape(begin, jax.random.key(0)), leading(outputs, batch_size)
  host_memory.check(
    tree_leaves.num_bytes(shapes),
    "a step",
    "choose a smaller model, smaller images or a smaller batch",
  )
  evaluate = tuple(jax.jit(one) for one in make_evaluate(model, rules.plan))
  return Network(
    rules, tuple(outputs), evaluate, stage_names(model), batch_size, label, num_classes, begin
  )


class Moment(NamedTuple):
  """When a step is, and what both sides take from it.

  Attributes:
    round: from 0.
    client: whose turn it is.
    steps: of the turn.
    local_step: of the turn.
  """

  round: int
  client: int
  steps: int
  local_step: int

  @property
  def place(self) -> np.int32:
    """The client's step, counted from the start of training."""
    return np.int32(self.round * self.steps + self.local_step)

  @property
  def time(self) -> np.float32:
    """What norms are told."""
    return np.float32(self.place / np.int32(self.steps))


def check_steps(rounds: int, steps: int) -> None:
  """Refuses a run of more local steps than programs count.

  Args:
    rounds: of the run.
    steps: of one turn.

  Raises:
    UserError: they are too many.
  """
  LoopConfig(rounds, rounds).check_counts(np.array([steps]), np.zeros(1, np.int64))


def leading(shapes: PyTree, count: int) -> PyTree:
  """The shapes of so many examples, of that of one."""
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape), a.dtype), shapes)


def finite(tree: PyTree) -> bool:
  """Whether all numbers of a tree are."""
  return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))
