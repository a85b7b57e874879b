"""Records the diagnostics of paper 004 at evaluations, for any algorithm and norm."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fedjax_norm.algorithms.contract import Algorithm
from fedjax_norm.data.federated import FederatedData, gather, label_counts, rows
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation import diagnostics
from fedjax_norm.evaluation.classification import (
  Scores,
  label_weighted_accuracy,
  make_evaluate,
  make_scores,
  stack_batches,
)
from fedjax_norm.evaluation.config import EvaluationConfig
from fedjax_norm.nodes import Nodes
from fedjax_norm.training.placement.client_states import ClientStore, evenly_spaced
from fedjax_norm.training.placement.data_feed import placer
from fedjax_norm.training.storage.csv_rows import Row
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Key, PyTree, Variables

Diagnose = Callable[[str, Algorithm, PyTree, ClientStore, FederatedData, int, Key], list[Row]]
"""(phase, its algorithm, the server's state, the clients' store, the federation on the host, the
round, the run's key) -> rows of ``diagnostics.csv``: round, quantity, place, value."""


# The clients that are looked at at the most, and the test images whose neurons are compared; both
# are spread evenly.
_CLIENTS, _IMAGES = 10, 32


def accuracy_by_partition(scores: list[Scores], counts: np.ndarray) -> np.ndarray:
  """The accuracy of models on the classes of each partition (paper 004, app. G, fig. 21).

  A_ij = sum_c p_j(c) accuracy_i(c), with p_j(c) the share of class c in partition j (see
  ``evaluation.label_weighted_accuracy``).

  Args:
    scores: of each model on the test set, [C].
    counts: [K, C] training examples of each partition and class.

  Returns:
    [len(scores), K].
  """
  return np.stack([label_weighted_accuracy(one, counts) for one in scores])


def make_diagnose(
  task: Task,
  models: Mapping[str, nn.Module],
  config: EvaluationConfig,
  batch_size: int,
  mapping: Nodes,
) -> Diagnose:
  """What is measured of a run at an evaluation.

  Each client is measured with its own model as it stands between rounds, if the algorithm has such
  (``views.travelling``, else ``views.client``), among those that have taken part; else all are
  with the global model. The quantities, and what their places are:

  - ``mean_divergence``, ``variance_divergence``: of a layer's channels, 'layer:channel';
  - ``mean_divergence_median``, ``variance_divergence_median``: over the channels of every layer;
  - ``accuracy``: 'i on j', the model of client i (or 'global') on the classes of client j, of tasks
    that classify;
  - ``weight_difference``, ``neuron_difference`` (a mean over layers) and
    ``neuron_difference_by_layer``: of algorithms whose models travel;
  - ``local_update_delta``: of the same; where models are averaged every so many steps
    (``periodic.py``), only just before they are, as the paper has it, so that evaluations where it
    is told are of local training equally long;
  - ``residual_update_delta``: of algorithms that have a ``residual``.

  Args:
    task: the federation and the model; of the federation's data nothing is kept.
    models: the model of each phase, its norm bound to no axis.
    config: how much is looked at.
    batch_size: of training.
    mapping: how test batches are mapped.

  Raises:
    UserError: a federation of one client, an unknown layer, or several processes.
  """
  if jax.process_count() > 1:
    raise UserError("diagnostics compare clients in one process; drop them or --num_processes.")
  if task.data.num_clients < 2:
    raise UserError("diagnostics compare clients and there is only one; add clients or drop them.")
  positions = diagnostics.norm_positions(task.model, task.image_shape)
  if not positions:
    raise UserError("diagnostics look at norms of fedjax_norm, and the model has none; drop them.")
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

  @jax.jit
  def neurons(a: Variables, b: Variables, stored: np.ndarray) -> dict[str, jax.Array]:
    seen = task.eval_transform(stored)
    return diagnostics.neuron_difference(task.model, positions, a, b, seen)

  batches = config.diagnostics_batches

  def divergences(phase, own, data, ids, round_, key) -> dict[tuple[str, str], float]:
    most = min(int(data.sizes[ids].max()), batches * batch_size)
    time = jnp.int32(round_)
    seen = [
      moments[phase](model, _sample(data, client, most, key), 0, batches, time, key)
      for model, client in zip(own, ids, strict=True)
    ]
    found = {}
    for kind in diagnostics.ChannelMoments._fields:
      by_layer = {p: diagnostics.divergence([getattr(s[p], kind) for s in seen]) for p in positions}
      for channel, value in enumerate(by_layer[layer]):
        found[f"{kind}_divergence", f"{layer}:{channel}"] = float(value)
      for position, values in by_layer.items():
        found[f"{kind}_divergence_median", position] = float(np.median(values))
    return found

  def differences(own, shared) -> dict[tuple[str, str], float]:
    params = [model["params"] for model in own]
    pairs = [neurons(a, b, shown) for i, a in enumerate(own) for b in own[i + 1 :]]
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
    own_of = algorithm.views.travelling or algorithm.views.client
    own_states = own_of or algorithm.views.residual
    ids = np.flatnonzero(store.seen) if own_states else np.arange(data.num_clients)
    ids = evenly_spaced(ids, _CLIENTS)
    server = jax.tree.map(np.asarray, server)
    shared = jax.tree.map(np.asarray, server.variables)
    own = _each(own_of, server, store, ids) if own_of else [shared] * len(ids)
    found: dict[tuple[str, str], float] = {}
    if len(ids) > 1:
      found |= divergences(phase, own, data, ids, round_, key)
      if algorithm.views.travelling:
        found |= differences(own, shared)
        if algorithm.averages_next is None or algorithm.averages_next(server):
          params = [model["params"] for model in own]
          delta = diagnostics.local_update_delta(params, shared["params"])
          found["local_update_delta", ""] = delta
    if algorithm.views.residual:
      unsent = _each(algorithm.views.residual, server, store, ids)
      delta = diagnostics.residual_update_delta(unsent, shared["params"])
      found["residual_update_delta", ""] = delta
    if scores:
      owners = [str(i) for i in ids] if own_of else ["global"]
      counts = label_counts(data, ids, task.num_classes)
      table = accuracy_by_partition([scores(model) for model in own[: len(owners)]], counts)
      for i, line in zip(owners, table, strict=True):
        found |= {("accuracy", f"{i} on {j}"): float(v) for j, v in zip(ids, line, strict=True)}
    return [
      {"round": round_, "quantity": quantity, "place": place, "value": value}
      for (quantity, place), value in found.items()
    ]

  return diagnose


def _make_scores(task: Task, batch_size: int, mapping: Nodes) -> Callable[[Variables], Scores]:
  """(a model, on the host) -> its scores on the test set."""
  place = placer(mapping)
  test = place(stack_batches(task.source.test, batch_size, mapping.num_devices))
  scores = make_scores(task.model, task.num_classes, task.eval_transform, task.user_objective)
  evaluate = make_evaluate(scores, mapping)
  return lambda variables: evaluate(place(variables), test)


def _each(of: Callable[..., PyTree], server: PyTree, store: ClientStore, ids: np.ndarray) -> list:
  """What an algorithm makes of each client's state, on the host."""
  stacked = jax.jit(jax.vmap(of, in_axes=(None, 0), axis_size=len(ids)))(server, store.gather(ids))
  stacked = jax.tree.map(np.asarray, stacked)
  return [jax.tree.map(lambda a, k=k: a[k], stacked) for k in range(len(ids))]


def _sample(data: FederatedData, client: Any, most: int, key: Key) -> FederatedData:
  """One client's row with at most so many of its examples, the same in every round of a run."""
  first, size = int(data.offsets[client]), int(data.sizes[client])
  own = np.asarray(data.order[first : first + size])
  if size > most:
    rng = np.random.default_rng([*np.asarray(jax.random.key_data(key)).tolist(), int(client)])
    own = own[np.sort(rng.choice(size, most, replace=False))]
  one = rows(data, np.array([client]))._replace(
    order=own, offsets=np.zeros(1, np.int32), sizes=np.array([len(own)], np.int32)
  )
  return gather(one, np.arange(1), most)
