"""Pure functions of what each party computes in a training step (paper 003, Alg. 1 and 3)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_norm import tree_leaves
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import LocalConfig, Metrics, measure, optimizer
from fedjax_norm.models.stages import Staged
from fedjax_norm.norm import Mode
from fedjax_norm.split.plan import ALICE, Plan, Segment
from fedjax_norm.typing import Array, Batch, Key, PyTree, Variables


class Part(NamedTuple):
  """The training state of one segment: its variables and its optimizer state."""

  variables: Variables
  opt_state: PyTree


class Tape(NamedTuple):
  """What the forward pass of a segment saves for the backward pass.

  Attributes:
    batch_stats: running statistics after the forward pass.
    pullback: (gradient of the output, gradient of the auxiliary loss) -> gradients of the
      parameters and, except in the first segment, of the input (a VJP function).
  """

  batch_stats: PyTree
  pullback: Callable[..., tuple[PyTree, ...]]


class Party(NamedTuple):
  """The training functions of one segment.

  Attributes:
    init: variables -> :class:`Part` with a new optimizer state.
    forward: (part, input, labels or None, mask, rounds so far, dropout key) -> (output,
      :class:`Tape`).
    backward: (part, tape, gradient of the output, number of examples, learning rate) -> (part after
      an optimizer step, gradient of the input, or () in the first segment). If there are no
      examples, the part does not change.
  """

  init: Callable[[Variables], Part]
  forward: Callable[..., tuple[PyTree, Tape]]
  backward: Callable[..., tuple[Part, PyTree]]


def make_party(
  model: Staged, segment: Segment, local: LocalConfig, shapes: Variables, *, first: bool
) -> Party:
  """Returns the forward and backward functions of one segment.

  Momentum and weight decay act on each weight separately, so that all parties' steps together equal
  a step of one optimizer on the whole model. Only gradient clipping differs: it uses the norm of
  the segment's gradient.

  Args:
    model: the whole model; its norm must be bound to no axis.
    segment: the stages of the segment.
    local: training options.
    shapes: shapes of the segment's variables.
    first: whether the segment's input is the images, which need no gradient.
  """
  paths = frozenset(tree_leaves.flatten(shapes.get("params", {})))
  sgd = optimizer(dataclasses.replace(local, frozen_paths=local.frozen_paths & paths))

  def init(variables: Variables) -> Part:
    return Part(variables, sgd.init(variables.get("params", {})))

  def forward(
    part: Part, x: PyTree, labels: Array | None, mask: Array, time: Array, key: Key
  ) -> tuple[PyTree, Tape]:
    def run(params: PyTree, x: PyTree) -> tuple[tuple[PyTree, Array], PyTree]:
      variables = {**part.variables, **({"params": params} if params else {})}
      mode = Mode(train=True, mask=mask, step=time, labels=labels, objective=local.objective)
      changing, rngs = ["batch_stats", "losses"], {"dropout": key}
      stages = segment.begin, segment.end
      y, changed = model.apply(variables, x, mode, *stages, mutable=changing, rngs=rngs)
      auxiliary = sum(jax.tree.leaves(changed.get("losses", {})), jnp.float32(0))
      return (y, auxiliary), changed.get("batch_stats", {})

    params = part.variables.get("params", {})
    if first:
      (y, _), pullback, stats = jax.vjp(lambda params: run(params, x), params, has_aux=True)
    else:
      (y, _), pullback, stats = jax.vjp(run, params, x, has_aux=True)
    return y, Tape(stats, pullback)

  def backward(
    part: Part, tape: Tape, gradient: PyTree, count: Array, rate: Array
  ) -> tuple[Part, PyTree]:
    grads, *rest = tape.pullback((gradient, 1 / jnp.maximum(count, 1).astype(jnp.float32)))
    params = part.variables.get("params", {})
    updates, opt_state = sgd.update(grads, part.opt_state, params)
    variables = dict(part.variables)
    if params:
      variables["params"] = optax.apply_updates(params, optax.tree.scale(-rate, updates))
    if tape.batch_stats:
      variables["batch_stats"] = tape.batch_stats
    after = optax.tree.where(count > 0, Part(variables, opt_state), part)
    return after, rest[0] if rest else ()

  return Party(init, forward, backward)


def make_parties(
  model: Staged, plan: Plan, local: LocalConfig, shapes: Sequence[Variables]
) -> tuple[Party, ...]:
  """Returns the functions of all segments in order (see :func:`make_party`).

  Raises:
    UserError: the option accumulate divides batches, which cross a cut only as a whole.
  """
  if local.accumulate > 1:
    raise UserError("a batch crosses the cut as a whole in split learning; drop accumulate.")
  return tuple(
    make_party(model, segment, local, variables, first=index == 0)
    for index, (segment, variables) in enumerate(zip(plan.segments, shapes, strict=True))
  )


def loss_gradient(local: LocalConfig, outputs: PyTree, batch: Batch) -> tuple[PyTree, Metrics]:
  """Returns the gradient of a batch's mean loss by the model's outputs, and sums of the metrics.

  Args:
    local: training options, which name the objective.
    outputs: [B, ...] outputs of the model.
    batch: labels and mask; the images are not used.
  """

  def loss(outputs: PyTree) -> tuple[Array, Metrics]:
    metrics = measure(local.objective, outputs, batch)
    return metrics.loss / jnp.maximum(batch.mask.sum(), 1), metrics

  return jax.grad(loss, has_aux=True)(outputs)


def check_auxiliary_losses(
  model: Staged,
  plan: Plan,
  image: jax.ShapeDtypeStruct,
  outputs: Sequence[PyTree],
  *,
  labelled: bool,
) -> None:
  """Checks that no party without labels has a stage with an auxiliary classifier.

  Args:
    model: the whole model.
    plan: the segments of the model and the party of each segment.
    image: (H, W, C) and the dtype that the model computes in.
    outputs: shapes of each segment's output for one example.
    labelled: whether all examples have labels.

  Raises:
    UserError: a party without labels has such a stage.
  """
  inputs = [image, *outputs]
  for index, segment in enumerate(plan.segments):
    has_labels = index == len(plan.segments) - 1 or segment.owner == ALICE
    if has_labels and labelled:
      continue
    x = jax.tree.map(lambda a: jnp.zeros((1, *a.shape), a.dtype), inputs[index])

    def run(x: PyTree, segment: Segment = segment) -> Any:
      mode = Mode(train=True, labels=jnp.zeros(1, jnp.int32), step=jnp.int32(0))
      rngs = dict.fromkeys(("params", "dropout"), jax.random.key(0))
      return model.init(rngs, x, mode, segment.begin, segment.end)

    if jax.tree.leaves(jax.eval_shape(run, x).get("losses", {})):
      raise UserError(
        f"the stages of {segment.owner} have an auxiliary classifier, but {segment.owner} lacks "
        "labels to train it; cut the model elsewhere, label all examples, or use another model."
      )
