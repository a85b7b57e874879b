"""Tests the global model of a run, and models of clients weighted by the client's label shares."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.data.federated import FederatedData, label_counts
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation import (
  batches,
  classification,
  ensemble_votes,
  regression,
  segmentation,
  verification,
)
from fedjax_norm.evaluation.batches import BatchTest, Finish, make_batch_test, only_sums
from fedjax_norm.evaluation.measures import headline
from fedjax_norm.models.ensemble import Ensemble
from fedjax_norm.training.personalization import Personalize
from fedjax_norm.training.placement.client_states import ClientStore, evenly_spaced
from fedjax_norm.training.placement.device_arrays import placer
from fedjax_norm.training.program_types import Evaluate
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Key, PyTree

MODELS_EVALUATED = 10
"""Default number of tested clients, if clients have local models or fine-tune the global model."""


class Test(NamedTuple):
  """The test functions of a task.

  Attributes:
    evaluate_model: (variables, stacked batches) -> test result of one model.
    make_evaluate_clients: ((server state, one client state) -> client model) -> the function that
      tests client models (see ``batches.make_evaluate_clients``).
    summarize: test result of one or several models -> test columns of a row of ``metrics.csv``.
  """

  evaluate_model: Callable[..., Any]
  make_evaluate_clients: Callable[..., Any]
  summarize: Callable[..., dict[str, float]]


def make_test(task: Task, mapping: client_mapping.ClientMapping) -> Test:
  """Returns the test functions for the kind of test of a task (see ``Task.kind``)."""
  model, outputs, transform = task.model, task.num_outputs, task.eval_transform
  batch_test: BatchTest
  finish: Finish = only_sums
  summarize: Callable[..., dict[str, float]]
  if task.pairs is not None:
    batch_test = verification.make_embed(model, transform)
    finish = partial(verification.finish, pairs=task.pairs)
    summarize = partial(verification.summarize, pairs=task.pairs)
  elif task.units is not None:
    errors_of = partial(regression.errors_of, objective=task.objective)
    batch_test = make_batch_test(model, transform, errors_of)
    summarize = partial(regression.summarize, scale=task.units)
  elif task.source.target_names is not None:
    confusion_of = partial(segmentation.confusion_of, num_classes=outputs, objective=task.objective)
    batch_test = make_batch_test(model, transform, confusion_of)
    summarize = partial(segmentation.summarize, names=task.source.target_names)
  elif isinstance(model, Ensemble):
    batch_test = ensemble_votes.make_votes(model, outputs, transform)
    summarize = ensemble_votes.summarize
  else:
    objective = task.user_objective
    batch_test = classification.make_scores(model, outputs, transform, objective, keep_outputs=True)
    finish = partial(classification.finish, objective=objective)
    summarize = classification.summarize
  return Test(
    batches.make_evaluate(batch_test, mapping, finish),
    partial(batches.make_evaluate_clients, batch_test, mapping, finish=finish),
    summarize,
  )


def make_evaluate(
  task: Task,
  mapping: client_mapping.ClientMapping,
  batch_size: int,
  evaluate_clients: int,
  personalize: Personalize | None = None,
) -> Evaluate:
  """Returns the function with which the training loop tests models on the test set of a task.

  For ``evaluate_clients`` clients it also reports the test accuracy weighted by the client's label
  shares, with ``personalize`` again after fine-tuning. ``mapping`` is sequential on each device.

  Raises:
    UserError: ``evaluate_clients`` is not 0, and the task is not classification.
  """
  devices, targets = mapping.num_devices, task.test_targets
  stacked = placer(mapping)(batches.stack_batches(task.source.test, batch_size, devices, targets))
  test = make_test(task, mapping)
  if task.kind != "classification" and evaluate_clients:
    raise UserError(
      f"{task.kind} has no label shares to weight the accuracy by; drop --evaluate_clients."
    )
  compiled: dict[Algorithm, Callable[..., Any]] = {}

  def of_clients(
    algorithm: Algorithm, server: PyTree, store: ClientStore, data: FederatedData, ids: np.ndarray
  ) -> Any:
    if algorithm not in compiled:
      model_of = algorithm.views.client or (lambda server, _: server.variables)
      compiled[algorithm] = test.make_evaluate_clients(model_of)
    states, positions = store.models(ids)
    strengths = np.asarray(data.strengths)[ids][positions]
    result = compiled[algorithm](server, states, strengths, stacked)
    order = np.argsort(positions)[-len(ids) :]
    return jax.tree.map(lambda a: np.asarray(a)[order], result)

  def evaluate(
    algorithm: Algorithm, server: PyTree, store: ClientStore, data: FederatedData, key: Key
  ) -> tuple[dict[str, float], dict[int, float]]:
    if algorithm.views.client is None:
      ids = evenly_spaced(np.arange(data.num_clients), evaluate_clients)
      result = test.evaluate_model(server.variables, stacked)
      columns = test.summarize(result)
      if evaluate_clients and np.any(data.strengths):  # a feature shift differs between clients
        result = of_clients(algorithm, server, store, data, ids)
    else:
      ids = evenly_spaced(np.flatnonzero(store.seen), evaluate_clients or MODELS_EVALUATED)
      result = of_clients(algorithm, server, store, data, ids)
      if algorithm.views.evaluate_global:
        each = [jax.tree.map(lambda a, i=i: a[i], result) for i in range(len(ids))]
        columns = test.summarize(test.evaluate_model(server.variables, stacked))
        name = headline(columns)
        values = [test.summarize(one)[name] for one in each]
        columns |= {f"models_{name}": float(np.mean(values)), f"models_{name}_min": min(values)}
      else:
        columns = test.summarize(result)
    if not evaluate_clients:
      return columns, {}
    counts = label_counts(data, ids, task.num_classes)
    accuracies = classification.label_weighted_accuracy(result, counts)
    columns |= {
      "clients_top1": float(np.nanmean(accuracies)),
      "clients_top1_min": float(np.nanmin(accuracies)),
    }
    if personalize:
      columns |= personalize(algorithm, server, store, data, key, ids, stacked)
    return columns, dict(zip(ids.tolist(), accuracies.tolist(), strict=True))

  return evaluate
