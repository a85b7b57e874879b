"""Inference over a cut model: activations go forward and outputs come back (paper 003, sec. 3)."""

import functools
from collections.abc import Callable, Sequence

from fedjax_norm.models.stages import Staged
from fedjax_norm.norm import Mode
from fedjax_norm.split.messages import ACTIVATION, OUTPUT
from fedjax_norm.split.plan import ALICE, Plan, Segment
from fedjax_norm.split.step import Send
from fedjax_norm.typing import Array, PyTree, Variables

Evaluate = Callable[[Variables, PyTree], PyTree]
"""(a segment's variables, its input) -> its output in evaluation mode."""


def make_evaluate(model: Staged, plan: Plan) -> tuple[Evaluate, ...]:
  """What each party computes, in the order of the segments.

  Args:
    model: the whole, its norm bound to no axis.
    plan: who holds what.
  """

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
  """A minibatch's outputs; no label crosses, and no gradient.

  Whoever holds the images plays Alice, a third party without training data as well: it needs her
  parameters alone. Where the last stages are not the reader's, the outputs go back the way that
  the activations came, so that relays still part Alice from Bob.

  Args:
    plan: the segments.
    evaluate: what each computes, traced or compiled.
    send: what carries messages (see ``exchange.Send``).
    variables: of each segment.
    images: [B, ...] as the model takes them.
    count: how many of them are examples.
    reader: who is to have the outputs, Alice or Bob.
  """
  x: PyTree = images
  for index, (run, held) in enumerate(zip(evaluate, variables, strict=True)):
    if index:
      x = send(ACTIVATION, index - 1, index, x, count)
    x = run(held, x)
  index = len(plan.segments) - 1
  while plan.segments[index].owner != reader:
    x = send(OUTPUT, index, index - 1, x, count)
    index -= 1
  return x
