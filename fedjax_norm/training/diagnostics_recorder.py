"""Measures how much the clients' data, models and updates differ, for any method (paper 004)."""

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
  draw,
  gather,
  label_counts,
  rows,
  without_drift,
)
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation import diagnostics
from fedjax_norm.evaluation.batches import make_evaluate, stack_batches
from fedjax_norm.evaluation.classification import Scores, label_weighted_accuracy, make_scores
from fedjax_norm.evaluation.config import EvaluationConfig
from fedjax_norm.evaluation.diagnostics import local_update_delta, residual_update_delta
from fedjax_norm.evaluation.gradient_deviation import make_gradient_deviation
from fedjax_norm.evaluation.undefined import ratio
from fedjax_norm.local_training.config import LocalConfig
from fedjax_norm.training.placement.client_states import ClientStore, evenly_spaced
from fedjax_norm.training.placement.device_arrays import placer
from fedjax_norm.training.storage.csv_rows import Row
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Array, Batch, Key, PyTree, Variables

Diagnose = Callable[[str, Algorithm, PyTree, ClientStore, FederatedData, int, Key], list[Row]]
"""(name of the phase, algorithm of the phase, server state, client store, federation on the host,
round, key of the run) -> rows of ``diagnostics.csv``: round, quantity, place, value."""

Values = dict[tuple[str, str], float]
"""The value of each (quantity, place); ``make_diagnose`` lists the quantities."""

# Maximum numbers of measured clients, and of test images for neuron differences. If there are more,
# evenly spaced ones are used.
_CLIENTS, _IMAGES = 10, 32
_GRADIENTS = 4  # minibatches of each client over which deviations of gradients are averaged


def accuracy_by_partition(scores: list[Scores], counts: np.ndarray) -> np.ndarray:
  """Returns the accuracy of each model on the classes of each partition (paper 004, fig. 21).

  A_ij = sum_c p_j(c) accuracy_i(c), with p_j(c) the share of class c in partition j (see
  ``classification.label_weighted_accuracy``). ``scores`` has the test scores [C] of each model i,
  ``counts`` [K, C] the number of training examples of each partition and class.
  """
  return np.stack([label_weighted_accuracy(one, counts) for one in scores])


def accuracy_on_blocks(scores: list[Scores], blocks: list[np.ndarray]) -> np.ndarray:
  """Returns the accuracy of each model on the test images of each block of classes (fig. 21).

  ``blocks`` has the classes of each block. Unlike the classes of the clients, blocks are the same
  in every partition. The result [M, B] is nan for a block without test images.
  """
  sums = (
    np.stack([np.asarray(getattr(one, name), np.float64) for one in scores])
    for name in ("top1", "examples")
  )
  return ratio(*(np.stack([of[:, block].sum(1) for block in blocks], 1) for of in sums))


def make_diagnose(
  task: Task,
  models: Mapping[str, nn.Module],
  config: EvaluationConfig,
  batch_size: int,
  mapping: ClientMapping,
) -> Diagnose:
  """Returns the function that measures the diagnostics of a run at an evaluation.

  If the algorithm has client models (``views.traveling`` or ``views.client``), each client that
  has taken part is measured with the client's model between rounds; otherwise all clients are
  measured with the global model. The quantities, with the text in the column ``place``
  (``evaluation.diagnostics`` defines them):

  - ``mean_divergence``, ``variance_divergence``: 'layer:channel', for each channel of one layer;
  - ``mean_divergence_median``, ``variance_divergence_median``: the layer, over its channels;
  - ``accuracy``: 'i on j', model of client i (or 'global') on the classes of client j; only for
    classification;
  - ``accuracy_on_blocks``: 'i on 0-4', the same model on the classes with the labels 0 to 4, for
    as many blocks of consecutive classes as there are measured clients; with ``--partition=skew``
    these are the classes of the clients, if each has equally many;
  - ``weight_difference``, ``neuron_difference`` (mean over layers) and
    ``neuron_difference_by_layer`` (the layer): only for algorithms with ``views.traveling``;
  - ``local_update_delta``: only for algorithms with ``views.traveling``; with periodic averaging
    only directly before an average, as in the paper, so that all values are measured after equally
    many local steps;
  - ``residual_update_delta``: only for algorithms with ``views.residual``;
  - ``gradient_deviation``: the layer; of gradients at the global model, as the mean over
    minibatches of all of a client's examples (see ``evaluation/gradient_deviation.py``), for as
    many clients as fit in a test batch; not for norms that merge statistics across clients, whose
    batch is the joint one.

  ``models`` has the model of each phase by name, not bound to a named device axis; ``batch_size``
  is the batch size of training; ``mapping`` divides test batches over devices.

  Raises:
    UserError: there are several processes or only one client, or the model has no norm of
      ``fedjax_norm`` or not the chosen layer.
  """
  if jax.process_count() > 1:
    raise UserError(
      "--diagnostics needs all clients in one process; drop --diagnostics or --num_processes."
    )
  if task.data.num_clients < 2:
    raise UserError(
      "--diagnostics compares clients, and there is only one; raise --clients or drop the flag."
    )
  positions = diagnostics.norm_positions(task.model, task.image_shape)
  if not positions:
    raise UserError(
      "--diagnostics measures norm layers of fedjax_norm, and the model has none; drop the flag."
    )
  layer = config.diagnostics_layer or positions[0]
  if layer not in positions:
    raise UserError(
      f"the model has no norm position {layer!r} to diagnose; choose one of {', '.join(positions)}."
    )
  test = task.source.test.images
  shown = np.asarray(test[evenly_spaced(np.arange(len(test)), _IMAGES)])
  scores = None
  if task.kind == "classification":
    scores = _make_scores(task, config.eval_batch_size, mapping)
  moments = {
    name: jax.jit(diagnostics.make_minibatch_moments(model, positions, batch_size, task.transform))
    for name, model in models.items()
  }

  gradients = {
    name: jax.jit(make_gradient_deviation(model, LocalConfig(objective=task.objective)))
    for name, model in models.items()
    if not task.model.norm.across_clients
  }

  @jax.jit
  def batch_of(one: FederatedData, step: Array, key: Key) -> Batch:
    return draw(one, jnp.int32(0), step, batch_size, task.transform, key)

  def deviations(
    phase: str, model: Variables, data: FederatedData, ids: np.ndarray, round_: int, key: Key
  ) -> Values:
    ids = ids[: max(2, config.eval_batch_size // batch_size)]  # the joint batch must fit in memory
    limit = min(int(data.sizes[ids].max()), _GRADIENTS * batch_size)
    samples = [without_drift(_sample(data, client, limit, key)) for client in ids]
    found = []
    for step in range(_GRADIENTS):
      batches = [batch_of(one, jnp.int32(step), key) for one in samples]
      stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *batches)
      found.append(gradients[phase](model, stacked, jnp.int32(round_)))
    means = jax.tree.map(lambda *values: float(np.mean(values)), *found)
    return {("gradient_deviation", layer): value for layer, value in means.items()}

  @jax.jit
  def neurons(a: Variables, b: Variables, stored: np.ndarray) -> dict[str, jax.Array]:
    images = task.eval_transform(stored)
    return diagnostics.neuron_difference(task.model, positions, a, b, images)

  batches = config.diagnostics_batches

  def divergences(
    phase: str, models: list, data: FederatedData, ids: np.ndarray, round_: int, key: Key
  ) -> Values:
    limit = min(int(data.sizes[ids].max()), batches * batch_size)
    time = jnp.int32(round_)
    per_client = [
      moments[phase](model, _sample(data, client, limit, key), 0, batches, time, key)
      for model, client in zip(models, ids, strict=True)
    ]
    values = {}
    for kind in diagnostics.ChannelMoments._fields:
      by_layer = {
        p: diagnostics.divergence([getattr(one[p], kind) for one in per_client]) for p in positions
      }
      for channel, value in enumerate(by_layer[layer]):
        values[f"{kind}_divergence", f"{layer}:{channel}"] = float(value)
      for position, channels in by_layer.items():
        values[f"{kind}_divergence_median", position] = float(np.median(channels))
    return values

  def differences(models: list) -> Values:
    params = [model["params"] for model in models]
    pairs = [neurons(a, b, shown) for i, a in enumerate(models) for b in models[i + 1 :]]
    by_layer = {p: float(np.mean([pair[p] for pair in pairs])) for p in positions}
    return {
      ("weight_difference", ""): diagnostics.weight_difference(params),
      ("neuron_difference", ""): float(np.mean(list(by_layer.values()))),
      **{("neuron_difference_by_layer", p): value for p, value in by_layer.items()},
    }

  def diagnose(
    phase: str,
    algorithm: Algorithm,
    server: PyTree,
    store: ClientStore,
    data: FederatedData,
    round_: int,
    key: Key,
  ) -> list[Row]:
    client_model = algorithm.views.traveling or algorithm.views.client
    client_states = client_model or algorithm.views.residual
    ids = np.flatnonzero(store.seen) if client_states else np.arange(data.num_clients)
    ids = evenly_spaced(ids, _CLIENTS)
    server = jax.tree.map(np.asarray, server)
    shared = server.variables
    models = _per_client(client_model, server, store, ids) if client_model else [shared] * len(ids)
    values: Values = {}
    if len(ids) > 1:
      values |= divergences(phase, models, data, ids, round_, key)
      if algorithm.views.traveling:
        values |= differences(models)
        if algorithm.averages_next is None or algorithm.averages_next(server):
          params = [model["params"] for model in models]
          values["local_update_delta", ""] = local_update_delta(params, shared["params"])
      if gradients:
        values |= deviations(phase, shared, data, ids, round_, key)
    if algorithm.views.residual:
      residuals = _per_client(algorithm.views.residual, server, store, ids)
      values["residual_update_delta", ""] = residual_update_delta(residuals, shared["params"])
    if scores:
      names = [str(i) for i in ids] if client_model else ["global"]
      counts = label_counts(data, ids, task.num_classes)
      tested = [scores(model) for model in models[: len(names)]]
      table = accuracy_by_partition(tested, counts)
      for i, line in zip(names, table, strict=True):
        values |= {("accuracy", f"{i} on {j}"): float(v) for j, v in zip(ids, line, strict=True)}
      blocks = np.array_split(np.arange(task.num_classes), min(len(ids), task.num_classes))
      for i, line in zip(names, accuracy_on_blocks(tested, blocks), strict=True):
        values |= {
          ("accuracy_on_blocks", f"{i} on {block[0]}-{block[-1]}"): float(v)
          for block, v in zip(blocks, line, strict=True)
        }
    return [
      {"round": round_, "quantity": quantity, "place": place, "value": value}
      for (quantity, place), value in values.items()
    ]

  return diagnose


def _make_scores(
  task: Task, batch_size: int, mapping: ClientMapping
) -> Callable[[Variables], Scores]:
  """Returns a function that tests a model in host memory and returns the scores by class."""
  place = placer(mapping)
  test = place(stack_batches(task.source.test, batch_size, mapping.num_devices))
  scores = make_scores(task.model, task.num_classes, task.eval_transform, task.user_objective)
  evaluate = make_evaluate(scores, mapping)
  return lambda variables: evaluate(place(variables), test)


def _per_client(
  view: Callable[..., PyTree], server: PyTree, store: ClientStore, ids: np.ndarray
) -> list:
  """Returns ``view(server state, client state)`` of each client in ``ids``, as host arrays."""
  mapped = jax.jit(jax.vmap(view, in_axes=(None, 0), axis_size=len(ids)))
  stacked = jax.tree.map(np.asarray, mapped(server, store.gather(ids)))
  return [jax.tree.map(lambda a, k=k: a[k], stacked) for k in range(len(ids))]


def _sample(data: FederatedData, client: Any, limit: int, key: Key) -> FederatedData:
  """Returns one client with at most ``limit`` examples, the same ones in every round of a run."""
  first, size = int(data.offsets[client]), int(data.sizes[client])
  examples = np.asarray(data.order[first : first + size])
  if size > limit:
    rng = np.random.default_rng([*np.asarray(jax.random.key_data(key)).tolist(), int(client)])
    examples = examples[np.sort(rng.choice(size, limit, replace=False))]
  one = rows(data, np.array([client]))._replace(
    order=examples, offsets=np.zeros(1, np.int32), sizes=np.array([len(examples)], np.int32)
  )
  return gather(one, np.arange(1), limit)
