"""Builds the cut network that client and server train: the compiled functions of ``split/``."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fedjax_norm import host_memory, models, tree_leaves
from fedjax_norm.errors import UserError
from fedjax_norm.models.stages import Staged, stage_names
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.split.by_messages.training import compile_parties
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.inference import Evaluate, make_evaluate
from fedjax_norm.split.parties import Part
from fedjax_norm.split.plan import ALICE, segment_shapes
from fedjax_norm.split.rules import Rules, make_rules
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.typing import Key, PyTree
from fedjax_norm.wire.protocol.step_ids import MAX_STEPS


class Network(NamedTuple):
  """A model cut into segments: the client's head, the server's body and, with --tail, a tail.

  Attributes:
    rules: the computations of each segment in a training step, compiled.
    outputs: shapes of each segment's output for one example.
    evaluate: for each segment, (variables, x) -> output in evaluation mode, compiled.
    stages: names of the model's stages.
    batch_size: number of examples per local step.
    label: shape and dtype of one example's label.
    num_classes: number of classes.
    initial_parts: key -> initial weights and optimizer states of all segments, as in simulations.
  """

  rules: Rules
  outputs: tuple[PyTree, ...]
  evaluate: tuple[Evaluate, ...]
  stages: tuple[str, ...]
  batch_size: int
  label: jax.ShapeDtypeStruct
  num_classes: int
  initial_parts: Callable[[Key], tuple[Part, ...]]

  @property
  def server_index(self) -> int:
    """Index of the server's segment."""
    return 1

  @property
  def client_indices(self) -> tuple[int, ...]:
    """Indices of the client's segments: the head and, in the U-shape, the tail."""
    return self.rules.plan.owned_by(ALICE)

  def client_parts(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Selects the client's segments from the states of all segments."""
    return tuple(parts[index] for index in self.client_indices)

  @property
  def cut(self) -> str:
    """Name of the cut layer: the last stage of the client's head."""
    return self.stages[self.rules.plan.segments[0].end - 1]


def make_network(
  model: Staged, config: SplitConfig, image: jax.ShapeDtypeStruct, num_classes: int
) -> Network:
  """Cuts a model and compiles its segments.

  Args:
    model: the whole model.
    config: the options of split learning.
    image: shape (H, W, C) of an image and the dtype that the model computes in.
    num_classes: number of classes.

  Raises:
    UserError: the model has no such cut or uses weight normalization, a turn has too many steps, or
      a step needs too much host memory.
  """
  if model.norm.weight_norm:
    raise UserError(
      "weight normalization is initialized from a batch that passes through the whole model, which "
      "no process of split learning over a network has; choose another --norm."
    )
  if (config.local_steps or 0) >= MAX_STEPS:
    raise UserError(
      f"split learning over a network takes fewer than {MAX_STEPS:,} steps per turn; lower "
      "--local_steps."
    )
  label = jax.ShapeDtypeStruct((), np.int32)
  rules = compile_parties(make_rules(model, config, image, label))
  _, outputs = segment_shapes(model, rules.plan, image)

  @jax.jit
  def initial_parts(key: Key) -> tuple[Part, ...]:
    init_key, _ = jax.random.split(stream(key, Stream.INIT))
    state = rules.init(models.init(model, init_key, image.shape))
    return rules.begin(state, rules.init_client(state))

  batch_size = config.batch_size
  shapes = jax.eval_shape(initial_parts, jax.random.key(0)), batched(outputs, batch_size)
  advice = "choose a smaller model, smaller images or a smaller batch"
  host_memory.check(tree_leaves.num_bytes(shapes), "a step", advice)
  evaluate, names = map(jax.jit, make_evaluate(model, rules.plan)), stage_names(model)
  return Network(
    rules, tuple(outputs), tuple(evaluate), names, batch_size, label, num_classes, initial_parts
  )


class StepPosition(NamedTuple):
  """The place of a local step in the run.

  Attributes:
    round: number of the round, from 0.
    client: index of the client whose turn it is.
    steps: number of local steps in the turn.
    local_step: number of the step in the turn, from 0.
  """

  round: int
  client: int
  steps: int
  local_step: int

  @property
  def client_step(self) -> np.int32:
    """Number of the client's step, from 0, counted over all its turns."""
    return np.int32(self.round * self.steps + self.local_step)

  @property
  def time(self) -> np.float32:
    """The training time given to the norms: client_step / steps, in rounds."""
    return np.float32(self.client_step / np.int32(self.steps))


def check_steps(rounds: int, steps: int) -> None:
  """Raises ``UserError`` if an int32 cannot count ``rounds`` times ``steps`` local steps."""
  LoopConfig(rounds, rounds).check_counts(np.array([steps]), np.zeros(1, np.int64))


def batched(shapes: PyTree, count: int) -> PyTree:
  """Returns the shapes of a batch of ``count`` examples, given those of one example."""
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape), a.dtype), shapes)


def all_finite(tree: PyTree) -> bool:
  """Whether all numbers in a tree are finite."""
  return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))
