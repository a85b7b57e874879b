"""Fine-tuning before an evaluation, against SGD written out and accuracies counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_fedavg import (
  batch_drawer,
  batch_gradient,
  flat,
  nested,
  random_variables,
  sgd_step,
)

from fedjax_norm import nodes, norm
from fedjax_norm.algorithms.base import Algorithm
from fedjax_norm.algorithms.fedavg import FedAvgConfig
from fedjax_norm.comm import Cost
from fedjax_norm.data import partition
from fedjax_norm.data.federated import federate, gather
from fedjax_norm.data.preprocess import Preprocess, make_transforms
from fedjax_norm.errors import UserError
from fedjax_norm.keys import Stream, stream
from fedjax_norm.local import LocalConfig
from fedjax_norm.norm import Mode
from fedjax_norm.training import evaluation
from fedjax_norm.training.clients import ClientStore
from fedjax_norm.training.loop import LoopConfig, summary, train
from fedjax_norm.training.personalise import FineTune, make_fine_tuned, make_personalise
from fedjax_norm.training.programs import make_fedavg
from fedjax_norm.training.schedule import Schedule
from fedjax_norm.training.task import Task

LOCAL = LocalConfig(batch_size=5, momentum=0.9, weight_decay=0.01, clip_norm=0.5)
FINE_TUNE = FineTune(7, 0.1)
SIZES = (9, 16, 14, 21)  # none a multiple of the batch: 7 steps go through several epochs
KEY = stream(jax.random.key(0), Stream.FINE_TUNE)


@pytest.fixture(scope="module")
def task(tiny_source, tiny_net):
  """Four clients with three classes each, most of them of one."""
  order = np.argsort(tiny_source.train.labels, kind="stable").astype(np.int32)
  division = partition.Partition(np.roll(order, 4), np.concatenate([[0], np.cumsum(SIZES)]))
  transforms = make_transforms(Preprocess(), tiny_source.train.images)
  data = federate(tiny_source.train, division)
  return Task(tiny_net(norm.create("bn")), tiny_source, data, *transforms)


def by_hand(task, variables, client):
  """The client's model after its steps, flat."""
  drawn = batch_drawer(task.data, LOCAL.batch_size, task.transform, KEY)
  params, stats = flat(variables["params"]), flat(variables["batch_stats"])
  anchor, trace = params, {k: np.zeros_like(v) for k, v in params.items()}
  for step in range(FINE_TUNE.steps):
    grads, stats = batch_gradient(task.model, params, stats, drawn(client, step))
    params, trace = sgd_step(LOCAL, params, trace, grads, anchor, FINE_TUNE.rate)
  return params, stats


def test_a_client_takes_its_own_steps_of_sgd(task):
  variables = random_variables(task.model, task.image_shape)
  tuned = make_fine_tuned(task.model, LOCAL, FINE_TUNE, task.transform, lambda server, _: server)
  part = jax.tree.map(jnp.asarray, gather(task.data, np.array([3, 1]), 40))
  own = jax.jit(tuned)((variables, part), ((), jnp.int32(1)))
  params, stats = by_hand(task, variables, 1)
  for ours, theirs in ((own["params"], params), (own["batch_stats"], stats)):
    for path, leaf in flat(ours).items():
      np.testing.assert_allclose(leaf, theirs[path], rtol=2e-4, atol=2e-5, err_msg=path)


def accuracy(task, params, stats, client):
  """On test examples with the client's mix of labels."""
  images = task.eval_transform(jnp.asarray(task.source.test.images))
  variables = {"params": nested(params), "batch_stats": nested(stats)}
  right = np.asarray(task.model.apply(variables, images, Mode()).argmax(-1))
  right = right == task.source.test.labels
  start = task.data.offsets[client]
  own = task.data.labels[task.data.order[start : start + SIZES[client]]]
  return np.mean([right[task.source.test.labels == label].mean() for label in own])


def algorithm(**functions):
  """What an evaluation asks of an algorithm; it trains nothing."""
  return Algorithm(*[None] * 6, Cost(0, 0))._replace(**functions)


def test_the_columns_are_the_accuracies_of_the_fine_tuned_models(task):
  """Of clients whose own models, all different, are what they start from."""
  models = [random_variables(task.model, task.image_shape) for _ in SIZES]
  for k, model in enumerate(models):
    model["params"] = jax.tree.map(lambda a, k=k: a * (1 + 0.3 * k), model["params"])
  states = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
  own = algorithm(client_variables=lambda server, state: state)
  mapping = nodes.create("auto", num_nodes=4).one_by_one()
  personalise = make_personalise(task, {own: (task.model, LOCAL)}, FINE_TUNE, mapping)
  store = ClientStore(models[0], 4)
  store.arrays = states
  stacked = evaluation.stack_batches(task.source.test, 8, mapping.num_devices)
  stacked = jax.tree.map(jnp.asarray, stacked)
  ids = np.array([0, 3])
  columns = personalise(own, (), store, task.data, ids, stacked)
  expected = [accuracy(task, *by_hand(task, models[k], k), k) for k in ids]
  plain = [
    accuracy(task, flat(models[k]["params"]), flat(models[k]["batch_stats"]), k) for k in ids
  ]
  assert columns["personal_top1"] == pytest.approx(np.mean(expected), abs=1e-6)
  assert columns["personal_top1_min"] == pytest.approx(np.min(expected), abs=1e-6)
  assert not np.isclose(expected, plain).any()  # the steps do something


def test_a_run_has_the_columns(task):
  """Of ten clients, or of all where there are fewer, without being asked for those."""
  loop = LoopConfig(rounds=1, eval_every=1)
  program = make_fedavg(task, FedAvgConfig(LOCAL), loop, Schedule(0.05), fine_tune=FINE_TUNE)
  variables = random_variables(task.model, task.image_shape)
  outcome = train(program, loop, task.data, variables)
  personal = {name: outcome.rows[-1][name] for name in ("personal_top1", "personal_top1_min")}
  assert personal.items() <= summary(outcome).items()
  assert personal["personal_top1"] > summary(outcome)["clients_top1"]
  assert outcome.client_accuracies.keys() == {0, 1, 2, 3}


@pytest.mark.parametrize(("steps", "rate", "words"), [(0, 0.1, "steps"), (1, 0.0, "lr")])
def test_what_would_do_nothing_is_refused(steps, rate, words):
  with pytest.raises(UserError, match=words):
    FineTune(steps, rate)
