"""Personalized evaluation, against SGD in NumPy and accuracies counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.reference_fedavg import (
  batch_drawer,
  batch_gradient,
  flat,
  nested,
  random_variables,
  sgd_step,
)
from helpers.settings import configure, plain, program_of

from fedjax_norm import client_mapping, norm
from fedjax_norm.algorithms.costs.ledger import Cost
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.algorithms.round_algorithm import Algorithm, Views
from fedjax_norm.data.federated import federate
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.evaluation import classification
from fedjax_norm.evaluation.batches import stack_batches
from fedjax_norm.norm import Mode
from fedjax_norm.training import build_program
from fedjax_norm.training.config.loop import LoopConfig
from fedjax_norm.training.outcome import Outcome, summary
from fedjax_norm.training.personalization import make_personalize
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.task.task import Task

LOCAL = plain(batch_size=5, momentum=0.9, weight_decay=0.01, clip_norm=0.5)
STEPS, RATE = 7, 0.1
SIZES = (9, 16, 14, 21)  # no multiples of the batch size; 7 steps are several epochs
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def task(tiny_source, tiny_net):
  """Four clients with three classes each, one of them frequent, and different noise."""
  order = np.argsort(tiny_source.train.labels, kind="stable").astype(np.int32)
  division = partitions.Partition(np.roll(order, 4), np.concatenate([[0], np.cumsum(SIZES)]))
  transforms = make_transforms(Preprocess(feature_shift="noise"), tiny_source.train.images)
  data = federate(tiny_source.train, division, np.array([0, 0.3, 0.1, 0.2], np.float32))
  return Task(tiny_net(norm.create("bn")), tiny_source, data, *transforms)


def by_hand(task, variables, client):
  """Returns a client's fine-tuned parameters and statistics, flat."""
  drawn = batch_drawer(task.data, LOCAL.batch_size, task.transform, KEY)
  params, stats = flat(variables["params"]), flat(variables["batch_stats"])
  anchor, trace = params, {k: np.zeros_like(v) for k, v in params.items()}
  for step in range(STEPS):
    grads, stats = batch_gradient(task.model, params, stats, drawn(client, step))
    params, trace = sgd_step(LOCAL, params, trace, grads, anchor, RATE)
  return params, stats


def scored(task, params, stats, client):
  """Returns the losses by class and the label-weighted accuracy, with the feature shift."""
  test, labels = task.source.test.images, task.source.test.labels
  images = task.eval_transform(
    jnp.asarray(test), jnp.arange(len(test)), task.data.strengths[client]
  )
  variables = {"params": nested(params), "batch_stats": nested(stats)}
  logits = np.asarray(task.model.apply(variables, images, Mode()), np.float64)
  losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
  correct = logits.argmax(-1) == labels
  start = task.data.offsets[client]
  client_labels = task.data.labels[task.data.order[start : start + SIZES[client]]]
  by_class = [losses[labels == label].sum() for label in range(4)]
  return by_class, np.mean([correct[labels == label].mean() for label in client_labels])


def algorithm(**functions):
  """An algorithm with the parts that an evaluation needs."""
  return Algorithm(*[None] * 4, Cost(0, 0), **functions)


def test_the_columns_are_the_accuracies_of_the_fine_tuned_models(task, monkeypatch):
  """Clients with different models before the fine-tuning; also checks the losses by class."""
  models = [random_variables(task.model, task.image_shape) for _ in SIZES]
  for k, model in enumerate(models):
    model["params"] = jax.tree.map(lambda a, k=k: a * (1 + 0.3 * k), model["params"])
  states = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
  with_client_models = algorithm(views=Views(client=lambda server, state: state))
  mapping = client_mapping.create("auto", num_clients=4).one_by_one()
  # The fine-tuning must ignore FedProx's term.
  config = configure(FedAvgConfig, LOCAL, prox=0.7, local_steps=2)
  personalize = make_personalize(
    task, {with_client_models: (task.model, config)}, STEPS, RATE, mapping
  )
  scores, label_weighted_accuracy = [], classification.label_weighted_accuracy

  def record(result, counts):
    scores.append(result)
    return label_weighted_accuracy(result, counts)

  monkeypatch.setattr(classification, "label_weighted_accuracy", record)
  store = ClientStore(models[0], 4)
  store.arrays = states
  stacked = stack_batches(task.source.test, 8, mapping.num_devices)
  stacked = jax.tree.map(jnp.asarray, stacked)
  ids = np.array([0, 3])
  columns = personalize(with_client_models, (), store, task.data, KEY, ids, stacked)
  losses, expected = zip(*(scored(task, *by_hand(task, models[k], k), k) for k in ids), strict=True)
  plain = [
    scored(task, flat(models[k]["params"]), flat(models[k]["batch_stats"]), k)[1] for k in ids
  ]
  np.testing.assert_allclose(scores[0].loss, losses, rtol=1e-3, atol=1e-4)
  assert columns["personal_top1"] == pytest.approx(np.mean(expected), abs=1e-6)
  assert columns["personal_top1_min"] == pytest.approx(np.min(expected), abs=1e-6)
  assert not np.isclose(expected, plain).any()  # the fine-tuning changes the accuracies


def test_an_evaluation_has_the_columns(task, monkeypatch):
  """By default ten clients, or all if there are fewer, are fine-tuned."""
  received = []

  def make(*arguments):
    received.extend(arguments)
    return lambda *arguments: received.extend(arguments) or {"personal_top1": 0.5}

  monkeypatch.setattr(build_program, "make_personalize", make)
  plain = task.data._replace(strengths=np.zeros(4, np.float32))
  loop = LoopConfig(rounds=1, eval_every=1)
  program, _ = program_of(FEDAVG, task, LOCAL, loop, fine_tune_steps=7, fine_tune_lr=0.1)
  algorithm = program.phases["explore"].algorithm
  server = algorithm.init(random_variables(task.model, task.image_shape))
  store = ClientStore(algorithm.init_client(server), 4)
  columns, accuracies, _ = program.evaluate(algorithm, server, store, plain, KEY)
  config = program.phases["explore"].config
  assert received[:4] == [task, {algorithm: (task.model, config)}, STEPS, RATE]
  assert received[5:10] == [algorithm, server, store, plain, KEY]
  assert received[10].tolist() == [0, 1, 2, 3]
  assert columns["personal_top1"] == 0.5
  assert accuracies.keys() == {0, 1, 2, 3}
  outcome = Outcome(server.variables, store, [{"round": 1, **columns}], None, accuracies, [], {})
  assert columns.items() <= summary(outcome).items()
  program_of(FEDAVG, task, LOCAL, loop, fine_tune_steps=7, lr=0.3)
  assert received[-2] == 0.3  # the default is the learning rate of the run
