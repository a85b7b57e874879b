"""How a run's models are tested: the global one, the clients' own, and each on its own labels."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_norm import nodes
from fedjax_norm.data.federated import label_counts
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation import (
  classification,
  ensemble_votes,
  regression,
  segmentation,
  verification,
)
from fedjax_norm.evaluation.measures import headline
from fedjax_norm.models.ensemble import Ensemble
from fedjax_norm.training.personalization import Personalize
from fedjax_norm.training.placement.client_states import evenly_spaced
from fedjax_norm.training.placement.data_feed import placer
from fedjax_norm.training.program_types import Evaluate
from fedjax_norm.training.task.task import Task

MODELS_EVALUATED = 10
"""Where clients keep a part of the model, a run reports the mean over at most so many of their
models."""


class Test(NamedTuple):
  """How models are tested.

  Attributes:
    of_model: (variables, stacked batches) -> a result.
    of_clients: (server's state, one client's state) -> that client's model -> the function that
      gives the results of clients (see ``evaluation.make_evaluate_clients``).
    summarize: of a result, or of several -> a row's test columns.
  """

  of_model: Callable[..., Any]
  of_clients: Callable[..., Any]
  summarize: Callable[..., dict[str, float]]


def make_test(task: Task, mapping: nodes.Nodes) -> Test:
  """Of the task's kind."""
  model, outputs, transform = task.model, task.num_outputs, task.eval_transform
  of_batch: Callable[..., Any]
  summarize: Callable[..., dict[str, float]]
  if task.pairs is not None:
    return _make_verification(task, task.pairs, mapping)
  if task.units is not None:
    errors_of = functools.partial(regression.errors_of, objective=task.objective)
    of_batch = classification.of_batch(model, transform, errors_of)
    summarize = functools.partial(regression.summarize, units=task.units)
  elif task.source.target_names is not None:
    confusion_of = functools.partial(
      segmentation.confusion_of, num_classes=outputs, objective=task.objective
    )
    of_batch = classification.of_batch(model, transform, confusion_of)
    summarize = functools.partial(segmentation.summarize, names=task.source.target_names)
  elif isinstance(model, Ensemble):
    of_batch = ensemble_votes.make_votes(model, outputs, transform)
    summarize = ensemble_votes.summarize
  else:
    of_batch = classification.make_scores(model, outputs, transform, task.user_objective)
    summarize = classification.summarize
  return Test(
    classification.make_evaluate(of_batch, mapping),
    functools.partial(classification.make_evaluate_clients, of_batch, mapping),
    summarize,
  )


def _make_verification(task: Task, pairs: verification.Pairs, mapping: nodes.Nodes) -> Test:
  embed = verification.make_embed(task.model, task.eval_transform)
  return Test(
    verification.make_evaluate(embed, pairs, mapping),
    functools.partial(verification.make_evaluate_clients, embed, pairs, mapping),
    functools.partial(verification.summarize, pairs=pairs),
  )


def make_evaluate(
  task: Task,
  mapping: nodes.Nodes,
  batch_size: int,
  evaluate_clients: int,
  personalize: Personalize | None = None,
) -> Evaluate:
  """The loop's ``Evaluate`` on a task's test set; of the task's federation it keeps nothing.

  Args:
    task: the federation and the model.
    mapping: the devices, one node after another on each.
    batch_size: test examples a batch.
    evaluate_clients: how many clients are evaluated on their own mix of labels (see
      ``assemble.assemble``).
    personalize: what they do with the model first, beside what it is without.

  Raises:
    UserError: clients' own mixes of labels in another task than classification.
  """
  stacked = placer(mapping)(
    classification.stack_batches(
      task.source.test, batch_size, mapping.num_devices, task.test_targets
    )
  )
  test = make_test(task, mapping)
  if task.kind != "classification" and evaluate_clients:
    raise UserError(f"{task.kind} knows no client's own mix of labels; drop evaluate_clients.")
  num_classes = task.num_classes
  own_scores: dict[Any, Any] = {}

  def of_clients(algorithm, server, store, data, ids):
    if algorithm not in own_scores:
      model_of = algorithm.views.client or (lambda server, _: server.variables)
      own_scores[algorithm] = test.of_clients(model_of)
    states, positions = store.models(ids)
    strengths = np.asarray(data.strengths)[ids][positions]
    result = own_scores[algorithm](server, states, strengths, stacked)
    places = np.argsort(positions)[-len(ids) :]
    return jax.tree.map(lambda a: np.asarray(a)[places], result)

  def evaluate(algorithm, server, store, data, key):
    if algorithm.views.client is None:
      ids = evenly_spaced(np.arange(data.num_clients), evaluate_clients)
      result = test.of_model(server.variables, stacked)
      columns = test.summarize(result)
      if evaluate_clients and np.any(data.strengths):  # clients see the test images otherwise
        result = of_clients(algorithm, server, store, data, ids)
    else:
      ids = evenly_spaced(np.flatnonzero(store.seen), evaluate_clients or MODELS_EVALUATED)
      result = of_clients(algorithm, server, store, data, ids)
      if algorithm.views.global_too:
        each = [jax.tree.map(lambda a, i=i: a[i], result) for i in range(len(ids))]
        columns = test.summarize(test.of_model(server.variables, stacked))
        name = headline(columns)
        own = [test.summarize(one)[name] for one in each]
        columns |= {f"models_{name}": float(np.mean(own)), f"models_{name}_min": min(own)}
      else:
        columns = test.summarize(result)
    if not evaluate_clients:
      return columns, {}
    accuracies = classification.label_weighted_accuracy(
      result, label_counts(data, ids, num_classes)
    )
    columns |= {
      "clients_top1": float(np.nanmean(accuracies)),
      "clients_top1_min": float(np.nanmin(accuracies)),
    }
    if personalize:
      columns |= personalize(algorithm, server, store, data, key, ids, stacked)
    return columns, dict(zip(ids.tolist(), accuracies.tolist(), strict=True))

  return evaluate
