"""Personalized evaluation: each client fine-tunes the model on its data, then the model is tested.

It measures how well a global model adapts to a client in a few steps (paper 004, app. K; Yu et al.
2020). Training continues with the model before the fine-tuning.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.client_mapping import ClientMapping
from fedjax_norm.data.federated import (
  FederatedData,
  Transform,
  draw,
  gather,
  label_counts,
  without_drift,
)
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation import classification
from fedjax_norm.evaluation.batches import HeldOut, make_evaluate_clients
from fedjax_norm.local_training import LocalConfig, make_client_update, optimizer
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.device_arrays import placer
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Array, Key, PyTree, Variables

Personalize = Callable[
  [Algorithm, PyTree, ClientStore, FederatedData, Key, np.ndarray, HeldOut], dict[str, float]
]
"""(algorithm, server state, client store, federation on the host, key of the run, client ids,
stacked test batches) -> test columns of a row of ``metrics.csv``."""


def make_fine_tuned(
  model: nn.Module,
  local: LocalConfig,
  steps: int,
  rate: float,
  transform: Transform,
  client_variables: Callable[[PyTree, PyTree], Variables],
) -> Callable[[Any, Any], Variables]:
  """Returns a function that fine-tunes one client's model on that client's data.

  The optimizer state starts at zero, and there is no proximal term. Every evaluation uses the
  batches of the client's first training steps (``federated.draw``) with the client's feature shift,
  so that only the model differs between evaluations. A norm across clients uses batches of this
  client only; batch renormalization uses its limits of round 0.

  ``local`` has batch size, momentum, weight decay and clipping; ``client_variables`` is (server
  state, client state) -> model before the fine-tuning.

  Returns:
    ((server state, data, key of the run), (client state, row of the client in the data)) ->
    variables of the fine-tuned model.
  """
  update, transformation = make_client_update(model, local), optimizer(local)

  def fine_tuned(
    shared: tuple[PyTree, FederatedData, Key], item: tuple[PyTree, Array]
  ) -> Variables:
    (server, data, key), (state, row) = shared, item
    variables = client_variables(server, state)
    dropout_key = jax.random.fold_in(stream(key, Stream.FINE_TUNE), data.clients[row])
    return update(
      variables,
      transformation.init(variables["params"]),
      lambda step: draw(data, row, step, local.batch_size, transform, key),
      jnp.int32(0),
      jnp.int32(steps),
      jnp.float32(rate),
      dropout_key,
    ).variables

  return fine_tuned


def make_personalize(
  task: Task,
  trained: Mapping[Algorithm, tuple[nn.Module, LocalConfig]],
  steps: int,
  rate: float,
  mapping: ClientMapping,
) -> Personalize:
  """Returns a function that fine-tunes client models and tests them by each client's label shares.

  ``trained`` maps the algorithm of each phase to (model, client options); the fine-tuning has
  ``steps`` local steps at learning rate ``rate``; ``mapping`` is sequential on each device. Clients
  with a drift fine-tune on all of their examples.

  Raises:
    UserError: the run has several processes, or the task is not classification.
  """
  if mapping.multi_process:
    raise UserError("--fine_tune_steps needs a single process; drop it or --num_processes.")
  if task.kind != "classification":
    raise UserError(f"{task.kind} has no label shares to test with; drop --fine_tune_steps.")
  scores = classification.make_scores(
    task.model, task.num_classes, task.eval_transform, task.user_objective
  )
  place = placer(mapping)
  compiled: dict[Algorithm, Callable[..., Any]] = {}

  def personalize(
    algorithm: Algorithm,
    server: PyTree,
    store: ClientStore,
    data: FederatedData,
    key: Key,
    ids: np.ndarray,
    stacked: HeldOut,
  ) -> dict[str, float]:
    if algorithm not in compiled:
      model_of = algorithm.views.client or (lambda server, _: server.variables)
      fine_tuned = make_fine_tuned(*trained[algorithm], steps, rate, task.transform, model_of)
      compiled[algorithm] = make_evaluate_clients(scores, mapping, fine_tuned)
    # Padded to the largest clients, so that other clients at the next evaluation do not recompile.
    capacity = int(np.sort(data.sizes)[-len(ids) :].sum())
    part = place(without_drift(gather(data, ids, capacity)))
    items = place((store.gather(ids), np.arange(len(ids), dtype=np.int32)))
    strengths = np.asarray(data.strengths)[ids]
    result = compiled[algorithm]((server, part, key), items, strengths, stacked)
    counts = label_counts(data, ids, task.num_classes)
    accuracies = classification.label_weighted_accuracy(jax.tree.map(np.asarray, result), counts)
    return {
      "personal_top1": float(np.nanmean(accuracies)),
      "personal_top1_min": float(np.nanmin(accuracies)),
    }

  return personalize
