"""Inference with a cut model in which every message is a :class:`Message` object."""

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
    model: the whole model.
    plan: the segments of the model and the party of each segment.
    parts: variables of each segment.
    transform: turns stored images into inputs of the model.
  """

  model: Staged
  plan: Plan
  parts: tuple[Variables, ...]
  transform: EvalTransform


def send_client_weights(cut_model: CutModel, party: str, hand_over: str, observe: Observe) -> None:
  """Sends the client's part of a trained model to a party, which can then compute activations.

  With ``hand_over='centralised'`` it is sent through the server, with ``'peer'`` directly.
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
  """Returns the model's outputs [N, ...] float32; the images never leave the party that has them.

  Args:
    cut_model: the trained model.
    images: [N, H, W, C] stored images.
    batch_size: images per minibatch.
    observe: callback that receives every message.
    client: name of the party that has the images and takes the client's role.
    reader: who receives the outputs: ``alice`` (the party ``client``) or ``bob`` (the server).
  """
  evaluate = tuple(map(jax.jit, make_evaluate(cut_model.model, cut_model.plan)))
  transform = jax.jit(lambda images: cut_model.transform(images))
  send = make_send(cut_model.plan, client, batch_size, observe)
  results = []
  for begin in range(0, len(images), batch_size):
    batch = np.asarray(images[begin : begin + batch_size])
    x, count = transform(padded(batch, batch_size)), jnp.int32(len(batch))
    outputs = infer(cut_model.plan, evaluate, send, cut_model.parts, x, count, reader)
    results.append(rows(outputs, len(batch)).astype(np.float32))
  return np.concatenate(results)
