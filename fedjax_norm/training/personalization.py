"""Personalisation as a way to evaluate: each client fine-tunes the model on its own data first.

What a global model is worth as a base that is quickly specialized (paper 004, app. K; Yu et al.
2020). Training itself is not changed by it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm.algorithms.contract import Algorithm
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
from fedjax_norm.local import LocalConfig, make_client_update, optimizer
from fedjax_norm.nodes import Nodes
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.data_feed import placer
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Array, Key, PyTree, Variables

Personalize = Callable[
  [Algorithm, PyTree, ClientStore, FederatedData, Key, np.ndarray, classification.HeldOut],
  dict[str, float],
]
"""(algorithm, the server's state, the clients' store, the federation on the host, the run's key,
the clients' ids, stacked test batches) -> columns of a row."""


def make_fine_tuned(
  model: nn.Module,
  local: LocalConfig,
  steps: int,
  rate: float,
  transform: Transform,
  client_variables: Callable[[PyTree, PyTree], Variables],
) -> Callable[[Any, Any], Variables]:
  """A client's model after steps on its own data, from the model that it has now.

  The optimizer starts afresh, and nothing holds the model back. Batches are those of
  a client's first steps (``federated.draw``), features shifted as in training, at every evaluation:
  what changes from one to the next is the model. A norm that looks across nodes sees this client
  alone, and batch renormalization is where its ramps begin. Where clients drift, they fine-tune on
  all of their data.

  Args:
    model: the model, unbound to any axis.
    local: the client's settings.
    steps: of local SGD, with the run's batch size, momentum, decay and clipping.
    rate: their learning rate.
    transform: of training images.
    client_variables: (server's state, client's state) -> the model to start from.

  Returns:
    ((server's state, data, the run's key), (client's state, its row in the data)) -> variables.
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
  mapping: Nodes,
) -> Personalize:
  """Tests the fine-tuned model of each of some clients on its own mix of labels.

  Args:
    task: the federation and the model.
    trained: the model and the client's settings of each phase's algorithm.
    steps: of the fine-tuning.
    rate: their learning rate.
    mapping: how clients are mapped, one at a time.

  Raises:
    UserError: a run of several processes, or a test that knows no labels.
  """
  if mapping.apart:
    raise UserError(
      "fine-tuning moves the clients' data to where they are tested, which several processes do not"
      " do; drop --fine_tune_steps or run one process."
    )
  if task.kind != "classification":
    raise UserError(f"{task.kind} knows no client's own mix of labels; drop fine_tune_steps.")
  scores = classification.make_scores(
    task.model, task.num_classes, task.eval_transform, task.user_objective
  )
  place, num_classes, transform = placer(mapping), task.num_classes, task.transform
  compiled: dict[Algorithm, Callable[..., Any]] = {}

  def compile(algorithm: Algorithm) -> Callable[..., Any]:
    model_of = algorithm.views.client or (lambda server, _: server.variables)
    fine_tuned = make_fine_tuned(*trained[algorithm], steps, rate, transform, model_of)
    return classification.make_evaluate_clients(scores, mapping, fine_tuned)

  def personalize(algorithm, server, store, data, key, ids, stacked):
    if algorithm not in compiled:
      compiled[algorithm] = compile(algorithm)
    # Room for any so many clients, so that others next time run the same program.
    capacity = int(np.sort(data.sizes)[-len(ids) :].sum())
    part = place(without_drift(gather(data, ids, capacity)))
    states = place(store.gather(ids))
    rows = place(np.arange(len(ids), dtype=np.int32))
    strengths = np.asarray(data.strengths)[ids]
    result = compiled[algorithm]((server, part, key), (states, rows), strengths, stacked)
    result = jax.tree.map(np.asarray, result)
    accuracies = classification.label_weighted_accuracy(
      result, label_counts(data, ids, num_classes)
    )
    return {
      "personal_top1": float(np.nanmean(accuracies)),
      "personal_top1_min": float(np.nanmin(accuracies)),
    }

  return personalize
