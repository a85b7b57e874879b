"""Measures how much activations reveal images, and gradients labels, at each cut of a model."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.transforms.scaling import to_float
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.leakage import label_attacks
from fedjax_norm.evaluation.leakage.distance_correlation import distance_correlation
from fedjax_norm.evaluation.leakage.inversion import Attack, Front, in_batches, reconstruct
from fedjax_norm.evaluation.leakage.similarity import psnr, relative_error, ssim
from fedjax_norm.models.stages import Staged, describe, stage_names
from fedjax_norm.norm import Mode
from fedjax_norm.objectives import find
from fedjax_norm.options import Options, option
from fedjax_norm.random_keys import Stream, stream
from fedjax_norm.training.task.task import Task
from fedjax_norm.typing import Array, Variables

_BATCH = 64
_MIN_EXAMPLES = 4  # needed by the corrected distance correlation
_SHOWN = 8
_SIMILARITY = ("reconstruction_error", "psnr", "ssim")


@dataclasses.dataclass(frozen=True)
class LeakageConfig(Options):
  """Options of the leakage measurement.

  Attributes:
    attack: training options of the attacker's decoder; ``attack_steps`` replaces ``attack.steps``.
  """

  group = "leakage"

  cuts: str | None = option(
    None,
    "The cut layers: stages after which the model is cut, separated by commas. By default every "
    "possible cut is measured; python -m experiments.stages lists the stages.",
  )
  examples: int = option(
    512,
    "The largest number of test images to reconstruct from activations, and of training images to "
    "infer labels of from gradients.",
    least=_MIN_EXAMPLES,
  )
  auxiliary: float = option(
    0.5,
    "The share of the test images that the attacker trains the decoder on; the attacked images are "
    "drawn from the other test images.",
    above=0,
    below=1,
  )
  attack_steps: int = option(1000, "Training steps of the attacker's decoder.", least=1)
  known_labels: int = option(
    5, "The number of labels of each class that the server knows; at most half are used.", least=1
  )
  seed: int = option(
    0, "The random seed of the choice of images and of the attacks.", least=0, most=2**32 - 1
  )
  attack: Attack = dataclasses.field(default_factory=Attack)


class Leakage(NamedTuple):
  """The results of the measurement.

  Attributes:
    rows: one row per cut: ``cut`` (the stage before the cut); ``shape`` and ``numbers`` (the
      product of the shape) of the activations of one example; ``distance_correlation`` and
      ``distance_correlation_corrected`` of images and activations; ``reconstruction_error``
      relative to the mean of the attacker's images, ``psnr`` and ``ssim``; for classification the
      accuracies of guessed labels: ``labels_by_known`` (some labels are known),
      ``labels_by_clusters`` (none is known), ``labels_shuffled`` (of the clusters, on shuffled
      labels) and ``labels_chance`` (always the most frequent class).
    images: [S, H, W, C] some of the attacked images, usually from 0 to 1.
    reconstructions: reconstructions of ``images`` for each cut.
    auxiliary: number of images that the attacker has.
    victims: number of attacked images.
  """

  rows: list[dict[str, Any]]
  images: np.ndarray
  reconstructions: list[np.ndarray]
  auxiliary: int
  victims: int


def measure(task: Task, variables: Variables, config: LeakageConfig) -> Leakage:
  """Reconstructs images from activations, and infers labels from gradients, at cuts of a model.

  The model is in evaluation mode, so that each activation depends on one example only. The attacked
  images and the attacker's images are different test images, which no client has. Labels are
  inferred for training images, from the gradients that the client's tail (all stages after the cut)
  sends to the server.

  Args:
    task: the data and the model.
    variables: variables of the model.
    config: the options of the measurement.

  Raises:
    UserError: the model has no stages, a cut is impossible, or there are too few images.
  """
  model = task.model
  if not isinstance(model, Staged):
    raise UserError("the model is not a sequence of stages, so it cannot be cut; choose another.")
  shapes = _cuts(model, task.image_shape, config.cuts)
  options = dataclasses.replace(config.attack, steps=config.attack_steps)
  rng = np.random.default_rng(config.seed)
  test, train = task.source.test, task.source.train
  order = rng.permutation(len(test.labels))
  split = round(config.auxiliary * len(order))
  # The attacker's images stay in random order because the first ones serve for validation.
  own_ids, victim_ids = order[:split], np.sort(order[split:][: config.examples])
  if min(len(own_ids), len(victim_ids)) < _MIN_EXAMPLES:
    raise UserError(
      f"of {len(order)} test images the attacker has {len(own_ids)} and attacks {len(victim_ids)}, "
      f"but both must be at least {_MIN_EXAMPLES}; use more test images or another auxiliary share."
    )
  auxiliary, victims = jnp.asarray(test.images[own_ids]), jnp.asarray(test.images[victim_ids])
  originals, truth = to_float(auxiliary), to_float(victims)
  key = stream(jax.random.key(config.seed), Stream.DECODER)
  train_ids = np.sort(rng.permutation(len(train.labels))[: config.examples])
  images, labels = jnp.asarray(train.images[train_ids]), train.labels[train_ids].astype(np.int32)

  attack, similarity = jax.jit(reconstruct, static_argnums=(0, 6)), jax.jit(_similarity)
  rows, reconstructions = [], []
  for name, (begin, shape) in shapes.items():
    front = _front(task, begin)
    activations = jax.jit(_each, static_argnums=0)(front, variables, victims)
    plain, corrected = jax.jit(distance_correlation)(task.eval_transform(victims), activations)
    reconstruction = attack(front, variables, auxiliary, originals, victims, key, options)
    row = {
      "cut": name,
      "shape": "x".join(map(str, shape)),
      "numbers": int(np.prod(shape)),
      "distance_correlation": plain,
      "distance_correlation_corrected": corrected,
      **dict(zip(_SIMILARITY, similarity(truth, reconstruction, originals), strict=True)),
    }
    if task.kind == "classification":
      gradients = jax.jit(_make_gradients(task, begin))(variables, images, labels)
      row |= _label_accuracies(gradients, labels, task.num_classes, config, key)
    rows.append({k: v if isinstance(v, str | int) else float(v) for k, v in row.items()})
    reconstructions.append(np.asarray(reconstruction[:_SHOWN]))
  shown = np.asarray(truth[:_SHOWN])
  return Leakage(rows, shown, reconstructions, len(auxiliary), len(victims))


def _cuts(
  model: Staged, image_shape: tuple[int, int, int], cuts: str | None
) -> dict[str, tuple[int, tuple[int, ...]]]:
  """Returns a dict: stage before a cut -> (number of stages before the cut, activations' shape)."""
  possible, parametric = {}, False
  for index, info in enumerate(describe(model, image_shape)[:-1]):
    parametric |= info.parametric
    if parametric:
      possible[info.name] = index + 1, info.shape
  names = [name.strip() for name in cuts.split(",")] if cuts is not None else list(possible)
  unknown = [name for name in names if name not in possible]
  if unknown or not possible:
    raise UserError(
      f"the model cannot be cut after {unknown[0]!r}; choose among {', '.join(possible)}."
      if unknown
      else "the model cannot be cut after a stage with parameters; its stages are "
      f"{', '.join(stage_names(model))}; choose another model."
    )
  return {name: possible[name] for name in names}


def _similarity(images: Array, reconstructed: Array, auxiliary: Array) -> tuple[Array, ...]:
  """Returns the measures named in ``_SIMILARITY``."""
  error = relative_error(images, reconstructed, auxiliary.mean(0))
  return error, psnr(images, reconstructed), ssim(images, reconstructed)


def _front(task: Task, end: int) -> Front:
  def front(variables: Variables, images: Array) -> Array:
    return task.model.apply(variables, task.eval_transform(images), Mode(), 0, end)

  return front


def _each(front: Front, variables: Variables, images: Array) -> Array:
  return in_batches(lambda part: front(variables, part), _BATCH, images)


def _make_gradients(task: Task, begin: int) -> Callable[[Variables, Array, Array], Array]:
  """Returns a function: (variables, images, labels) -> gradients [n, ...], one per example.

  They are the gradients of the losses with respect to the activations that enter stage ``begin``.
  """
  front, loss_of = _front(task, begin), find(task.objective).loss

  def gradients(variables: Variables, images: Array, labels: Array) -> Array:
    def batch_gradients(images: Array, labels: Array) -> Array:
      def loss(activations: Array) -> Array:
        outputs = jnp.asarray(task.model.apply(variables, activations, Mode(), begin))
        return loss_of(outputs.astype(jnp.float32), labels).sum()

      return jax.grad(loss)(front(variables, images))

    return in_batches(batch_gradients, _BATCH, images, labels)

  return gradients


def _label_accuracies(
  gradients: Array, labels: np.ndarray, num_classes: int, config: LeakageConfig, key: Array
) -> dict[str, float]:
  """Returns the accuracies of guessed labels, the ``labels_*`` columns of :class:`Leakage`."""
  # At most half of a class is known, so that labels remain to be guessed.
  by_class = (np.flatnonzero(labels == c) for c in range(num_classes))
  known_ids = [ids[: min(config.known_labels, len(ids) // 2)] for ids in by_class]
  known = np.zeros(len(labels), bool)
  known[np.concatenate(known_ids)] = True
  cosine = jax.jit(label_attacks.cosines)(gradients)
  guesses = jax.jit(label_attacks.by_known, static_argnums=3)(cosine, labels, known, num_classes)
  clusters = jax.jit(label_attacks.clusters, static_argnums=1)(cosine, num_classes, key)
  matched = jax.jit(label_attacks.matched_accuracy, static_argnums=2)
  shuffled = np.random.default_rng(config.seed).permutation(labels)
  return {
    "labels_by_known": float(np.mean(np.asarray(guesses)[~known] == labels[~known])),
    "labels_by_clusters": float(matched(clusters, labels, num_classes)),
    "labels_shuffled": float(matched(clusters, shuffled, num_classes)),
    "labels_chance": float(np.bincount(labels).max() / len(labels)),
  }
