"""Measures at every cut of a model what would leak there: of the images, and of the labels."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_norm.data.transforms.augment import to_float
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
_LEAST = 4  # examples, for the corrected distance correlation
_SHOWN = 8
_LIKENESS = ("reconstruction_error", "psnr", "ssim")


@dataclasses.dataclass(frozen=True)
class LeakageConfig(Options):
  """How much is looked at.

  Attributes:
    attack: how the decoder is trained, but for its steps.
  """

  group = "leakage"

  cuts: str | None = option(
    None,
    "The stages after which to cut, with commas; by default every cut behind a stage that learns "
    "(python -m experiments.stages lists them).",
  )
  examples: int = option(
    512,
    "Test images whose activations are attacked, and training images whose gradients are, at most.",
    least=_LEAST,
  )
  auxiliary: float = option(
    0.5,
    "The share of the test images that the attacker has; the others are the victims.",
    above=0,
    below=1,
  )
  attack_steps: int = option(1000, "Steps of the attacker's decoder.", least=1)
  known_labels: int = option(
    5, "Examples of each class whose labels Bob knows, at most half of the class.", least=1
  )
  seed: int = option(
    0, "The seed of which images are whose, and of the attacks.", least=0, most=2**32 - 1
  )
  attack: Attack = dataclasses.field(default_factory=Attack)


class Leakage(NamedTuple):
  """What was measured.

  Attributes:
    rows: one a cut: ``cut``, the stage before it, its ``shape`` and ``numbers``;
      ``distance_correlation`` and ``distance_correlation_corrected`` of images and activations;
      ``reconstruction_error`` relative to the auxiliary images' mean, ``psnr`` and ``ssim``; of
      classification ``labels_by_known``, ``labels_by_clusters``, ``labels_shuffled`` (what the
      clusters would get of shuffled labels) and ``labels_chance`` (the share of the commonest
      class).
    images: [S, H, W, C] some of the victims, from 0 to 1 as a rule.
    found: for each cut what the attacker makes of them.
    auxiliary: how many images the attacker had.
    victims: how many were attacked.
  """

  rows: list[dict[str, Any]]
  images: np.ndarray
  found: list[np.ndarray]
  auxiliary: int
  victims: int


def measure(task: Task, variables: Variables, config: LeakageConfig) -> Leakage:
  """Attacks a model's activations and gradients at its cuts.

  The model is in evaluation mode: what crosses the cut is a function of each example alone. Images
  are attacked among test images, half of them (by default) the attacker's and the others his
  victims, none of them a client's. Labels are attacked among training images, at the gradient that
  a tail of the stages behind the cut sends back to Bob.

  Args:
    task: the data and the model.
    variables: the model's.
    config: how much is looked at.

  Raises:
    UserError: a model without stages, an unknown cut, or too few images.
  """
  model = task.model
  if not isinstance(model, Staged):
    raise UserError("this model is no sequence of stages, so it cannot be cut; choose another one.")
  shapes = _cuts(model, task.image_shape, config.cuts)
  decoder = dataclasses.replace(config.attack, steps=config.attack_steps)
  rng = np.random.default_rng(config.seed)
  test, train = task.source.test, task.source.train
  order = rng.permutation(len(test.labels))
  split = round(config.auxiliary * len(order))
  # The attacker's stay in random order, for he holds the first of them out to see how he does.
  auxiliary, others = order[:split], np.sort(order[split:][: config.examples])
  if min(len(auxiliary), len(others)) < _LEAST:
    raise UserError(
      f"of {len(order)} test images the attacker has {len(auxiliary)} and attacks {len(others)}; "
      f"both must be at least {_LEAST}, so take more test images or another share."
    )
  own, victims = jnp.asarray(test.images[auxiliary]), jnp.asarray(test.images[others])
  originals, truth = to_float(own), to_float(victims)
  key = stream(jax.random.key(config.seed), Stream.DECODER)
  some = np.sort(rng.permutation(len(train.labels))[: config.examples])
  seen, labels = jnp.asarray(train.images[some]), train.labels[some].astype(np.int32)

  attack, likeness = jax.jit(reconstruct, static_argnums=(0, 6)), jax.jit(_likeness)
  rows, pictures = [], []
  for name, (begin, shape) in shapes.items():
    front = _front(task, begin)
    activations = jax.jit(_each, static_argnums=0)(front, variables, victims)
    inputs = task.eval_transform(victims)
    plain, corrected = jax.jit(distance_correlation)(inputs, activations)
    found = attack(front, variables, own, originals, victims, key, decoder)
    row = {
      "cut": name,
      "shape": "x".join(map(str, shape)),
      "numbers": int(np.prod(shape)),
      "distance_correlation": plain,
      "distance_correlation_corrected": corrected,
      **dict(zip(_LIKENESS, likeness(truth, found, originals), strict=True)),
    }
    if task.kind == "classification":
      gradients = jax.jit(_make_gradients(task, begin))(variables, seen, labels)
      row |= _labels(gradients, labels, task.num_classes, config, key)
    rows.append({k: v if isinstance(v, str | int) else float(v) for k, v in row.items()})
    pictures.append(np.asarray(found[:_SHOWN]))
  return Leakage(rows, np.asarray(truth[:_SHOWN]), pictures, len(auxiliary), len(others))


def _cuts(
  model: Staged, image_shape: tuple[int, int, int], cuts: str | None
) -> dict[str, tuple[int, tuple[int, ...]]]:
  """The name of each cut -> (the stages before it, the shape of what crosses it)."""
  found, learns = {}, False
  for index, info in enumerate(describe(model, image_shape)[:-1]):
    learns |= info.parametric
    if learns:
      found[info.name] = index + 1, info.shape
  names = [name.strip() for name in cuts.split(",")] if cuts is not None else list(found)
  unknown = [name for name in names if name not in found]
  if unknown or not found:
    raise UserError(
      f"the model cannot be cut after {unknown[0]!r}; choose among {', '.join(found)}."
      if unknown
      else f"the model has no cut behind a stage that learns among {', '.join(stage_names(model))}."
    )
  return {name: found[name] for name in names}


def _likeness(images: Array, found: Array, auxiliary: Array) -> tuple[Array, ...]:
  """In the order of ``_LIKENESS``."""
  error = relative_error(images, found, auxiliary.mean(0))
  return error, psnr(images, found), ssim(images, found)


def _front(task: Task, end: int) -> Front:
  def front(variables: Variables, images: Array) -> Array:
    return task.model.apply(variables, task.eval_transform(images), Mode(), 0, end)

  return front


def _each(front: Front, variables: Variables, images: Array) -> Array:
  return in_batches(lambda part: front(variables, part), _BATCH, images)


def _make_gradients(task: Task, begin: int) -> Callable[[Variables, Array, Array], Array]:
  """(variables, images, labels) -> the gradient of each example's loss at a cut, [n, ...]."""
  front, loss_of = _front(task, begin), find(task.objective).loss

  def gradients(variables: Variables, images: Array, labels: Array) -> Array:
    def of(images: Array, labels: Array) -> Array:
      def loss(activations: Array) -> Array:
        outputs = jnp.asarray(task.model.apply(variables, activations, Mode(), begin))
        return loss_of(outputs.astype(jnp.float32), labels).sum()

      return jax.grad(loss)(front(variables, images))

    return in_batches(of, _BATCH, images, labels)

  return gradients


def _labels(
  gradients: Array, labels: np.ndarray, num_classes: int, config: LeakageConfig, key: Array
) -> dict[str, float]:
  """What the gradients say of the labels."""
  # At most half of a class is known, so that there are others to guess.
  of_class = (np.flatnonzero(labels == c) for c in range(num_classes))
  places = [ids[: min(config.known_labels, len(ids) // 2)] for ids in of_class]
  known = np.zeros(len(labels), bool)
  known[np.concatenate(places)] = True
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
