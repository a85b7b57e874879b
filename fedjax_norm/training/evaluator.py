"""Tests the models of a run on the test set, on validation examples and on unseen clients."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_norm import client_mapping
from fedjax_norm.algorithms.round_algorithm import Algorithm
from fedjax_norm.data.examples import Examples
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
from fedjax_norm.evaluation.batches import BatchTest, Finish, HeldOut, make_batch_test, only_sums
from fedjax_norm.evaluation.measures import headline
from fedjax_norm.evaluation.undefined import defined_mean
from fedjax_norm.models.ensemble import Ensemble
from fedjax_norm.training.personalization import Personalize
from fedjax_norm.training.placement.client_states import ClientStore, evenly_spaced
from fedjax_norm.training.placement.device_arrays import placer
from fedjax_norm.training.program_types import Evaluation
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Key, PyTree

MODELS_EVALUATED = 10
"""Default number of tested clients, if clients have local models or fine-tune the global model."""


class Test(NamedTuple):
  """The compiled test functions of a task, which tasks with the same model can share.

  Attributes:
    evaluate_model: (variables, stacked batches) -> test result of one model.
    make_evaluate_clients: ((server state, one client state) -> client model) -> the function that
      tests client models (see ``batches.make_evaluate_clients``).
    of_clients: the functions made so far, by the algorithm whose client models they test.
  """

  evaluate_model: Callable[..., Any]
  make_evaluate_clients: Callable[..., Any]
  of_clients: dict[Algorithm, Callable[..., Any]]


def make_test(task: Task, mapping: client_mapping.ClientMapping) -> Test:
  """Returns the test functions for the kind of test of a task (see ``Task.kind``)."""
  model, outputs, transform = task.model, task.num_outputs, task.eval_transform
  batch_test: BatchTest
  finish: Finish = only_sums
  if task.pairs is not None:
    batch_test = verification.make_embed(model, transform)
    finish = partial(verification.finish, pairs=task.pairs)
  elif task.units is not None:
    errors_of = partial(regression.errors_of, objective=task.objective)
    batch_test = make_batch_test(model, transform, errors_of)
  elif task.source.target_names is not None:
    confusion_of = partial(segmentation.confusion_of, num_classes=outputs, objective=task.objective)
    batch_test = make_batch_test(model, transform, confusion_of)
  elif isinstance(model, Ensemble):
    batch_test = ensemble_votes.make_votes(model, outputs, transform)
  else:
    objective = task.user_objective
    batch_test = classification.make_scores(model, outputs, transform, objective, keep_outputs=True)
    if objective is None:
      finish = classification.finish  # one function for all tasks, so that its programs are shared
    else:
      finish = partial(classification.finish, objective=objective)
  return Test(
    batches.make_evaluate(batch_test, mapping, finish),
    partial(batches.make_evaluate_clients, batch_test, mapping, finish=finish),
    {},
  )


class Part(NamedTuple):
  """Examples to test on.

  Attributes:
    batches: the stacked batches, on the devices.
    summarize: test result of one or several models -> test columns of a row of ``metrics.csv``.
  """

  batches: HeldOut
  summarize: Callable[[Any], dict[str, float]]


def make_parts(
  task: Task, mapping: client_mapping.ClientMapping, batch_size: int
) -> dict[str, Part]:
  """Returns the test set, ``validation`` and ``unseen``, as far as a task has them.

  Held-out examples are padded to batches of the test set's size, and to as many batches unless that
  would be many more, so that parts and seeds share compiled functions.
  """
  place, devices = placer(mapping), mapping.num_devices
  stacked = batches.stack_batches(task.source.test, batch_size, devices, task.test_targets)
  count, size = stacked.ids.shape
  parts = {"test": Part(place(stacked), make_summarize(task, task.source.test))}
  for name, examples in (("validation", task.validation), ("unseen", task.unseen)):
    if examples is not None:
      few = -(-len(examples.labels) // size) < count / 4
      stacked = batches.stack_batches(
        examples, size, devices if few else count, task.targets_of(examples), even=False
      )
      parts[name] = Part(place(stacked), make_summarize(task, examples))
  return parts


def make_summarize(task: Task, examples: Examples) -> Callable[[Any], dict[str, float]]:
  """Returns the function from a test result on ``examples`` to test columns."""
  if task.pairs is not None:
    return partial(verification.summarize, pairs=task.pairs)
  if task.units is not None:
    assert examples.targets is not None
    return partial(regression.summarize, scale=task.units.of(examples.targets))
  if task.source.target_names is not None:
    return partial(segmentation.summarize, names=task.source.target_names)
  if isinstance(task.model, Ensemble):
    return ensemble_votes.summarize
  return classification.summarize


def make_evaluate(
  task: Task,
  mapping: client_mapping.ClientMapping,
  batch_size: int,
  evaluate_clients: int,
  personalize: Personalize | None = None,
) -> "Evaluator":
  """Returns the function with which the training loop tests models on the data of a task.

  For ``evaluate_clients`` clients it also reports the accuracy on their own test examples, or, if
  the data does not name them, the test accuracy weighted by the client's label shares; with
  ``personalize`` the latter again after fine-tuning. ``mapping`` is sequential on each device.

  Raises:
    UserError: ``evaluate_clients`` is not 0 or the task has unseen clients, and the task is not
      classification, or it is an ensemble with unseen clients.
  """
  if task.kind != "classification" and evaluate_clients:
    raise UserError(
      f"{task.kind} has no label shares to weight the accuracy by; drop --evaluate_clients."
    )
  if task.unseen is not None and (
    task.kind != "classification" or isinstance(task.model, Ensemble)
  ):
    raise UserError(
      "unseen clients are tested by the accuracy of one classifier; drop --unseen_clients."
    )
  test, parts = make_test(task, mapping), make_parts(task, mapping, batch_size)
  return Evaluator(task, mapping, batch_size, evaluate_clients, personalize, test, parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
  """Tests models on the data of a task (``program_types.Evaluate``); see :func:`make_evaluate`."""

  task: Task
  mapping: client_mapping.ClientMapping
  batch_size: int
  evaluate_clients: int
  personalize: Personalize | None
  test: Test
  parts: dict[str, Part]

  def for_task(self, task: Task) -> "Evaluator":
    """Returns the same tests on the data of another task (see ``program_types.Evaluate``)."""
    parts = make_parts(task, self.mapping, self.batch_size)
    return dataclasses.replace(self, task=task, parts=parts)

  def __call__(
    self, algorithm: Algorithm, server: PyTree, store: ClientStore, data: FederatedData, key: Key
  ) -> Evaluation:
    """Tests the models (see ``program_types.Evaluate``)."""
    part, local = self.parts["test"], algorithm.views.client is not None
    one_model = not local or algorithm.views.evaluate_global
    count = self.evaluate_clients or (MODELS_EVALUATED if local else 0)
    everyone = np.flatnonzero(store.seen) if local else np.arange(data.num_clients)
    ids = evenly_spaced(everyone, count)
    strengths = np.asarray(data.strengths)[ids]

    def test(part: Part, strengths: np.ndarray | None) -> Any:
      """Tests the global model or, with the strengths of feature shifts, the clients' models."""
      if strengths is None:
        return self.test.evaluate_model(server.variables, part.batches)
      return self._of_clients(algorithm, server, store, strengths, ids, part)

    of_clients = test(part, strengths) if local or (count and np.any(data.strengths)) else None
    result = test(part, None) if one_model else of_clients
    of_clients = result if of_clients is None else of_clients
    columns = part.summarize(result)
    if local and one_model:
      name = headline(columns)
      each = [jax.tree.map(lambda a, i=i: a[i], of_clients) for i in range(len(ids))]
      values = [part.summarize(one)[name] for one in each]
      columns |= {f"models_{name}": float(np.mean(values)), f"models_{name}_min": min(values)}
    clients: list[dict[str, Any]] = []
    if self.evaluate_clients:
      clients = self._clients(of_clients, data, ids)
      columns |= _mean_and_min("clients_top1", clients)
      if self.personalize:
        columns |= self.personalize(algorithm, server, store, data, key, ids, part.batches)
    if validation := self.parts.get("validation"):
      # Feature shifts are part of the stored held-out images.
      held_out = validation.summarize(test(validation, None if one_model else 0 * strengths))
      columns |= {f"val_{name}": value for name, value in held_out.items()}
    unseen = self._unseen(test(self.parts["unseen"], None)) if "unseen" in self.parts else []
    if unseen:
      columns |= _mean_and_min("unseen_top1", unseen)
    accuracies = {client["id"]: client["top1"] for client in clients}
    return Evaluation(columns, accuracies, self._details(result, clients + unseen))

  def _of_clients(
    self,
    algorithm: Algorithm,
    server: PyTree,
    store: ClientStore,
    strengths: np.ndarray,
    ids: np.ndarray,
    part: Part,
  ) -> Any:
    """Returns the test results [k, ...] of the models of the clients ``ids`` [k]."""
    if algorithm not in self.test.of_clients:
      model_of = algorithm.views.client or (lambda server, _: server.variables)
      self.test.of_clients[algorithm] = self.test.make_evaluate_clients(model_of)
    states, positions = store.models(ids)
    evaluate = self.test.of_clients[algorithm]
    result = evaluate(server, states, strengths[positions], part.batches)
    order = np.argsort(positions)[-len(ids) :]
    return jax.tree.map(lambda a: np.asarray(a)[order], result)

  def _clients(self, result: Any, data: FederatedData, ids: np.ndarray) -> list[dict[str, Any]]:
    """Returns the entries of clients ``ids`` [k], for the result of one model or of each client."""
    owners = self.task.test_owners
    if owners is not None and hasattr(result, "correct"):
      accuracies = classification.own_accuracy(result, owners, ids)
      examples = (owners == ids[:, None]).sum(1)
    else:
      counts = label_counts(data, ids, self.task.num_classes)
      accuracies = classification.label_weighted_accuracy(result, counts)
      examples = ((counts > 0) * np.asarray(result.examples)).sum(1)
    return self._entries(ids, examples, accuracies, unseen=False)

  def _unseen(self, result: Any) -> list[dict[str, Any]]:
    """Returns the entries of the clients that never train, for the global model's result."""
    assert self.task.unseen is not None
    owners = self.task.unseen.clients
    assert owners is not None
    ids, examples = np.unique(owners, return_counts=True)
    accuracies = classification.own_accuracy(result, owners, ids)
    return self._entries(ids, examples, accuracies, unseen=True)

  def _entries(
    self, ids: np.ndarray, examples: np.ndarray, accuracies: np.ndarray, unseen: bool
  ) -> list[dict[str, Any]]:
    """Returns what ``evaluation.json`` says of clients; ``top1`` is nan without examples."""
    names = self.task.client_names
    rows = zip(ids.tolist(), examples.tolist(), accuracies.tolist(), strict=True)
    return [
      {
        "id": k,
        "name": names[k] if names else None,
        "examples": int(count),
        "top1": top1,
        "unseen": unseen,
      }
      for k, count, top1 in rows
    ]

  def _details(self, result: Any, clients: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the content of ``evaluation.json``, for the result that the test columns are of."""
    if self.task.kind != "classification":
      return {}
    classes: dict[str, Any] = {"classes": []}
    if not isinstance(self.task.model, Ensemble):
      classes |= classification.details(result, self.task.source.class_names)
    # A client without tested examples has no accuracy; JSON has no nan.
    known = [one | {"top1": None if np.isnan(one["top1"]) else one["top1"]} for one in clients]
    return {**classes, "clients": known}


def _mean_and_min(name: str, clients: list[dict[str, Any]]) -> dict[str, float]:
  """Returns the columns of the mean and the lowest accuracy of clients; nan if none has one."""
  values = np.array([client["top1"] for client in clients])
  least = float("nan") if np.isnan(values).all() else float(np.nanmin(values))
  return {name: defined_mean(values), f"{name}_min": least}
