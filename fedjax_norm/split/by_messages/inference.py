"""Inference with a cut model in minibatches, in which every message is an object."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.transforms.preprocess import EvalTransform
from fedjax_norm.models.stages import Staged
from fedjax_norm.split.by_messages.training import Observe, make_send, send_along
from fedjax_norm.split.inference import infer, make_evaluate
from fedjax_norm.split.messages import HAND_OVER, padded, rows
from fedjax_norm.split.plan import ALICE, BOB, Plan
from fedjax_norm.typing import Variables


class CutModel(NamedTuple):
  """A trained model divided among the parties.

  Attributes:
    model: the whole model, its norm bound to no axis.
    plan: the division of the model.
    parts: variables of each segment (see ``plan.divide``).
    transform: transform of stored images.
  """

  model: Staged
  plan: Plan
  parts: tuple[Variables, ...]
  transform: EvalTransform


def send_client_weights(cut_model: CutModel, party: str, hand_over: str, observe: Observe) -> None:
  """Sends the clients' weights to a party without weights, so that it can compute F_a.

  Args:
    cut_model: the trained model.
    party: name of the party that receives the weights.
    hand_over: ``centralised`` (through the server) or ``peer`` (directly from a client).
    observe: callback for every message.
  """
  weights = [cut_model.parts[index] for index in cut_model.plan.owned_by(ALICE)]
  path = [ALICE, *([BOB] if hand_over == "centralised" else []), party]
  send_along(path, HAND_OVER, jax.tree.map(np.asarray, weights), observe)


def remote_outputs(
  cut_model: CutModel,
  images: np.ndarray,
  batch_size: int,
  observe: Observe,
  client: str = ALICE,
  reader: str = ALICE,
) -> np.ndarray:
  """Returns the model's outputs [N, ...] float32; the images never leave the client.

  Args:
    cut_model: the trained model.
    images: [N, H, W, C] stored images.
    batch_size: images per minibatch.
    observe: callback for every message.
    client: name of the party that holds the images and takes the client's role.
    reader: role that receives the outputs, ``alice`` or ``bob``.
  """
  evaluate = tuple(map(jax.jit, make_evaluate(cut_model.model, cut_model.plan)))
  transform = jax.jit(lambda images: cut_model.transform(images))
  send = make_send(cut_model.plan, client, batch_size, observe)
  results = []
  for begin in range(0, len(images), batch_size):
    batch = np.asarray(images[begin : begin + batch_size])
    x = transform(padded(batch, batch_size))
    count = jnp.int32(len(batch))
    outputs = infer(cut_model.plan, evaluate, send, cut_model.parts, x, count, reader)
    results.append(rows(outputs, len(batch)).astype(np.float32))
  return np.concatenate(results)
