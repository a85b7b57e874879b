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
"""(variables of a segment, the segment's input) -> its output in evaluation mode."""


def make_evaluate(model: Staged, plan: Plan) -> tuple[Evaluate, ...]:
  """Returns each segment's evaluation function; the model's norm must be bound to no axis."""

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
  """Returns the model's outputs for a minibatch of images; only activations and outputs are sent.

  The party that has the images takes the client's role, with the client's weights. Outputs return
  the way that the activations came, so that relays still separate client and server.

  Args:
    plan: the segments of the model and the party of each segment.
    evaluate: evaluation function of each segment.
    send: delivers the messages.
    variables: variables of each segment.
    images: [B, ...] transformed images.
    count: number of rows of ``images`` that are no padding.
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
