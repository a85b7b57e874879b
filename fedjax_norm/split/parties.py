"""What each party computes in a step, as pure functions (paper 003, Alg. 1 and 3).

The simulation composes them in one program; step by step, and on the wire, each is compiled by
itself.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_norm import tree_leaves
from fedjax_norm.errors import UserError
from fedjax_norm.local import LocalConfig, Metrics, measure, optimizer
from fedjax_norm.models.stages import Staged
from fedjax_norm.norm import Mode
from fedjax_norm.split.plan import ALICE, Plan, Segment
from fedjax_norm.typing import Array, Batch, Key, PyTree, Variables


class Part(NamedTuple):
  """What a party holds of one segment.

  Attributes:
    variables: ``params`` and ``batch_stats`` of its stages.
    opt_state: its optimizer's state.
  """

  variables: Variables
  opt_state: PyTree


class Tape(NamedTuple):
  """What a party remembers between the way forward and the way back.

  Attributes:
    batch_stats: as the way forward left them.
    pullback: of the output and of the losses of its own.
  """

  batch_stats: PyTree
  pullback: Callable[..., tuple[PyTree, ...]]


class Party(NamedTuple):
  """A segment's computations.

  Attributes:
    init: variables -> :class:`Part`.
    forward: (part, x, labels or None, mask, time, key) -> (output, :class:`Tape`).
    backward: (part, tape, gradient of the output, count, rate) -> (part, gradient of x). Of the
      first segment's x there is none, (). With a count of no examples the part stays as it is.
  """

  init: Callable[[Variables], Part]
  forward: Callable[..., tuple[PyTree, Tape]]
  backward: Callable[..., tuple[Part, PyTree]]


def check_local(local: LocalConfig) -> None:
  """Refuses what means nothing to parties that see a part of the model each.

  Raises:
    UserError: it is asked for.
  """
  if local.accumulate > 1:
    raise UserError("a batch crosses the cut as a whole in split learning; drop accumulate.")


def make_party(
  model: Staged, segment: Segment, local: LocalConfig, shapes: Variables, *, first: bool
) -> Party:
  """The computations of the party that holds a segment.

  The optimizer is the party's own: momentum and decay act on each weight by itself, so that the
  halves step as the whole would; clipping is by the norm of the party's own gradient.

  Args:
    model: the whole, its norm bound to no axis.
    segment: which stages.
    local: the settings of training.
    shapes: of the segment's variables.
    first: whether x is the images, whose gradient nobody needs.
  """
  own = frozenset(tree_leaves.flatten(shapes.get("params", {})))
  sgd = optimizer(dataclasses.replace(local, frozen_paths=local.frozen_paths & own))

  def init(variables: Variables) -> Part:
    return Part(variables, sgd.init(variables.get("params", {})))

  def forward(part: Part, x: PyTree, labels: Array | None, mask: Array, time: Array, key: Key):
    def run(params, x):
      variables = {**part.variables, **({"params": params} if params else {})}
      mode = Mode(train=True, mask=mask, step=time, labels=labels, objective=local.objective)
      changing, rngs = ["batch_stats", "losses"], {"dropout": key}
      y, changed = model.apply(
        variables, x, mode, segment.begin, segment.end, mutable=changing, rngs=rngs
      )
      own_loss = sum(jax.tree.leaves(changed.get("losses", {})), jnp.float32(0))
      return (y, own_loss), changed.get("batch_stats", {})

    params = part.variables.get("params", {})
    if first:
      (y, _), pullback, stats = jax.vjp(lambda params: run(params, x), params, has_aux=True)
    else:
      (y, _), pullback, stats = jax.vjp(run, params, x, has_aux=True)
    return y, Tape(stats, pullback)

  def backward(part: Part, tape: Tape, gradient: PyTree, count: Array, rate: Array):
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
  """The parties of a plan's segments, in order (see :func:`make_party`).

  Raises:
    UserError: settings that mean nothing here.
  """
  check_local(local)
  return tuple(
    make_party(model, segment, local, held, first=index == 0)
    for index, (segment, held) in enumerate(zip(plan.segments, shapes, strict=True))
  )


def loss_gradient(local: LocalConfig, outputs: PyTree, batch: Batch) -> tuple[PyTree, Metrics]:
  """G'(output, label) of the mean loss over a batch's examples, and the sums of the metrics.

  Args:
    local: its objective.
    outputs: of the last segment, [B, ...].
    batch: labels and mask; its images are nobody's business here.
  """

  def loss(outputs: PyTree):
    metrics = measure(local.objective, outputs, batch)
    return metrics.loss / jnp.maximum(batch.mask.sum(), 1), metrics

  return jax.grad(loss, has_aux=True)(outputs)


def check_own_losses(
  model: Staged,
  plan: Plan,
  image: jax.ShapeDtypeStruct,
  outputs: Sequence[PyTree],
  *,
  labelled: bool,
) -> None:
  """Refuses stages with losses of their own (auxiliary classifiers) where labels are lacking.

  Args:
    model: the whole.
    plan: who holds what.
    image: (H, W, C) and the dtype that the model computes in.
    outputs: what each segment gives for one example.
    labelled: whether all examples have labels.

  Raises:
    UserError: there are such stages.
  """
  inputs = [image, *outputs]
  for index, segment in enumerate(plan.segments):
    knows = index == len(plan.segments) - 1 or segment.owner == ALICE
    if knows and labelled:
      continue
    x = jax.tree.map(lambda a: jnp.zeros((1, *a.shape), a.dtype), inputs[index])

    def run(x, segment=segment):
      key, labels = jax.random.key(0), jnp.zeros(1, jnp.int32)
      mode = Mode(train=True, labels=labels, step=jnp.int32(0))
      variables = model.init({"params": key}, x, Mode(), segment.begin, segment.end)
      changing = ["batch_stats", "losses"]
      return model.apply(
        variables, x, mode, segment.begin, segment.end, mutable=changing, rngs={"dropout": key}
      )[1]

    if jax.tree.leaves(jax.eval_shape(run, x).get("losses", {})):
      raise UserError(
        f"{segment.owner} holds stages with losses of their own, for which labels are lacking "
        "there; cut the model elsewhere, label all examples, or choose another model."
      )
