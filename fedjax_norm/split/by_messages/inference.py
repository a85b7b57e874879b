"""Inference over a cut model, minibatch by minibatch, in which every message is an object."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.transforms.preprocess import EvalTransform
from fedjax_norm.models.stages import Staged
from fedjax_norm.split.by_messages.training import Observe, pass_on, send_rows
from fedjax_norm.split.inference import infer, make_evaluate
from fedjax_norm.split.messages import HAND_OVER, padded, rows
from fedjax_norm.split.plan import ALICE, BOB, Plan, divide, segment_shapes
from fedjax_norm.typing import Variables


class Served(NamedTuple):
  """A trained model, cut.

  Attributes:
    model: the whole, its norm bound to no axis.
    plan: who holds what.
    parts: the variables of each segment.
    transform: of stored images.
  """

  model: Staged
  plan: Plan
  parts: tuple[Variables, ...]
  transform: EvalTransform


def serve(
  model: Staged,
  plan: Plan,
  variables: Variables,
  transform: EvalTransform,
  image: jax.ShapeDtypeStruct,
) -> Served:
  """Gives each party of a plan its part of a trained model.

  Args:
    model: the whole, its norm bound to no axis.
    plan: who holds what.
    variables: of the whole.
    transform: of stored images.
    image: (H, W, C) and the dtype that the model computes in.
  """
  return Served(model, plan, divide(variables, segment_shapes(model, plan, image)[0]), transform)


def fetch(served: Served, who: str, hand_over: str, observe: Observe) -> None:
  """Sends Alice's weights to somebody who holds none: what it takes to compute F_a.

  Args:
    served: the model.
    who: gets them.
    hand_over: as in training: ``centralised`` through Bob, or from a ``peer``.
    observe: sees the messages.
  """
  own = [served.parts[index] for index in served.plan.owned_by(ALICE)]
  path = [ALICE, *([BOB] if hand_over == "centralised" else []), who]
  pass_on(HAND_OVER, path, jax.tree.map(np.asarray, own), observe)


def outputs_of(
  served: Served,
  images: np.ndarray,
  batch_size: int,
  observe: Observe,
  who: str = ALICE,
  reader: str = ALICE,
) -> np.ndarray:
  """The model's outputs, of which nobody but ``who`` sees the images.

  Args:
    served: the model.
    images: [N, H, W, C] as stored.
    batch_size: of a minibatch.
    observe: sees the messages.
    who: plays Alice.
    reader: who is to have the outputs: Alice or Bob.

  Returns:
    [N, ...] float32.
  """
  evaluate = tuple(map(jax.jit, make_evaluate(served.model, served.plan)))
  transform = jax.jit(lambda images: served.transform(images))
  send = send_rows(served.plan, who, batch_size, observe)
  found = []
  for begin in range(0, len(images), batch_size):
    some = np.asarray(images[begin : begin + batch_size])
    x = transform(padded(some, batch_size))
    count = jnp.int32(len(some))
    outputs = infer(served.plan, evaluate, send, served.parts, x, count, reader)
    found.append(rows(outputs, len(some)).astype(np.float32))
  return np.concatenate(found)
