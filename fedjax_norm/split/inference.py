"""Inference with a cut model: activations go forward and outputs return (paper 003, sec. 3)."""

import functools
from collections.abc import Callable, Sequence

from fedjax_norm.models.stages import Staged
from fedjax_norm.norm import Mode
from fedjax_norm.split.messages import ACTIVATION, OUTPUT
from fedjax_norm.split.plan import ALICE, Plan, Segment
from fedjax_norm.split.step import Send
from fedjax_norm.typing import Array, PyTree, Variables

Evaluate = Callable[[Variables, PyTree], PyTree]
"""(variables of a segment, input) -> output in evaluation mode."""


def make_evaluate(model: Staged, plan: Plan) -> tuple[Evaluate, ...]:
  """Returns the evaluation function of each segment of a model whose norm is bound to no axis."""

  def run(variables: Variables, x: PyTree, segment: Segment) -> PyTree:
    return model.apply(variables, x, Mode(), segment.begin, segment.end)

  return tuple(functools.partial(run, segment=segment) for segment in plan.segments)


def infer(
  plan: Plan,
  evaluate: Sequence[Evaluate],
  send: Send,
  variables: Sequence[Variables],
  images: Array,
  count: Array,
  reader: str = ALICE,
) -> PyTree:
  """Returns the outputs for a minibatch; no label and no gradient crosses.

  The holder of the images takes the client's role; a third party without training data can do so
  with the client's weights. Outputs return to their reader by the way of the activations, so that
  relays still separate client and server.

  Args:
    plan: the segments.
    evaluate: evaluation function of each segment.
    send: delivers the messages.
    variables: variables of each segment.
    images: [B, ...] images as the model takes them.
    count: number of rows that are examples.
    reader: party that receives the outputs, ``alice`` or ``bob``.
  """
  x: PyTree = images
  for index, (run, part_variables) in enumerate(zip(evaluate, variables, strict=True)):
    if index:
      x = send(ACTIVATION, index - 1, index, x, count)
    x = run(part_variables, x)
  index = len(plan.segments) - 1
  while plan.segments[index].owner != reader:
    x = send(OUTPUT, index, index - 1, x, count)
    index -= 1
  return x
