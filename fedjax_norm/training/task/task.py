"""What is to be learnt: a source, its partition over clients, a model and the preprocessing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from fedjax_norm import models
from fedjax_norm.data.example_order import FOREVER, ExampleOrder
from fedjax_norm.data.examples import Source, value_range
from fedjax_norm.data.federated import FederatedData, Transform, federate
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.sources.in_memory import Arrays, to_partition, to_source
from fedjax_norm.data.transforms.augment import client_strengths
from fedjax_norm.data.transforms.preprocess import EvalTransform, Preprocess, make_transforms
from fedjax_norm.errors import UserError, check_type
from fedjax_norm.evaluation.regression import Units, units
from fedjax_norm.evaluation.verification import Pairs, make_pairs
from fedjax_norm.models.registry import Entry
from fedjax_norm.models.user_module import adapt
from fedjax_norm.norm import NormSpec
from fedjax_norm.objectives import TASKS, Objective, check_loss
from fedjax_norm.split.ensemble_members import MemberSpec, make_ensemble
from fedjax_norm.training.placement.client_placement import local_examples


class Task(NamedTuple):
  """A federation and its model.

  Attributes:
    model: the model, unbound to any axis.
    source: the data it came from.
    data: the federation, host arrays.
    transform: of training images.
    plain_transform: of training images, without augmentation.
    eval_transform: of test images.
    pairs: of test images, which verification tells apart; None for other tasks.
    objective: what the model is trained to say: a name of ``objectives.OBJECTIVES``, or the user's
      own objective.
    units: of the numbers of regression; None for other tasks.
    values: the least and greatest value of the training images as stored, by a sample.
  """

  model: nn.Module
  source: Source
  data: FederatedData
  transform: Transform
  plain_transform: Transform
  eval_transform: EvalTransform
  pairs: Pairs | None = None
  objective: str | Objective = "classification"
  units: Units | None = None
  values: tuple[float, float] = (0.0, 1.0)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return self.source.train.images.shape[1:]

  @property
  def num_classes(self) -> int:
    """C, of the labels."""
    return len(self.source.class_names)

  @property
  def num_outputs(self) -> int:
    """What the model says: logits of classes, or numbers."""
    return len(self.source.target_names or self.source.class_names)

  @property
  def user_objective(self) -> Objective | None:
    """The user's own objective; None for one of ``objectives.OBJECTIVES``."""
    return self.objective if isinstance(self.objective, Objective) else None

  @property
  def kind(self) -> str:
    """What the test is of: verification, a name of ``objectives.TASKS``, or the loss alone."""
    if self.pairs:
      return "verification"
    kind = _kind(self.source)
    if kind == "classification" and self.user_objective and not self.user_objective.correct:
      return "an objective without right"
    return kind

  @property
  def test_targets(self) -> np.ndarray:
    """[N, ...] what the model's outputs for the test images are held against."""
    test = self.source.test
    if test.targets is None:
      return test.labels.astype(np.int32)
    return self.units.standard(test.targets) if self.units else test.targets


def make_task(
  source: Source | Arrays,
  partition: Partition | Sequence[Any] | np.ndarray,
  norm: NormSpec | None = None,
  model: str | nn.Module = "tiny",
  *,
  preprocess: Preprocess | None = None,
  stem: str = "auto",
  statistics: tuple[np.ndarray, np.ndarray] | None = None,
  verification: bool = False,
  order: ExampleOrder | None = None,
  span: int | np.ndarray = FOREVER,
  objective: str | Objective = "classification",
  members: Sequence[MemberSpec] = (),
) -> Task:
  """Puts a task together.

  Args:
    source: the data, or four arrays of it (see ``given.to_source``).
    partition: of its training examples over clients; or the client of each example, or each
      client's example ids (see ``given.to_partition``).
    norm: after each convolution; a module of the user's own does without.
    model: a key of ``models.MODELS``, or a flax module of the user's own (see ``own.adapt``).
    preprocess: of the images.
    stem: of the models that have several (see ``models.create``).
    statistics: the channels' mean and deviation; None takes those of the source's images.
    verification: whether the test is to tell identities apart by their embeddings, on the same
      pairs of test images in every run.
    order: how each client goes through its examples; None is at random.
    span: local steps that a stretch of a drift lasts (``example_order.steps_per_stretch``), for all
      clients or [K].
    objective: of ``objectives.TASKS``, as the source was loaded for, or the user's own: then the
      test loss is its loss, and the accuracy of labels is what it calls right. Numbers of
      regression are trained on with the mean 0 and deviation 1 of all clients' training examples.
    members: of an ensemble, in place of ``model``; the task's objective is then ``ensemble``.

  Raises:
    UserError: an argument of a wrong type, a model that does not fit the images, the norm or the
      objective, a test set that does not fit the test, or a feature shift of images that are far
      outside of 0 to 1.
  """
  source = to_source(source)
  train, kind = source.train, _kind(source)
  partition = to_partition(partition, len(train.labels))
  check_type("norm", norm, NormSpec | None)
  check_type("model", model, str | nn.Module)
  check_type("preprocess", preprocess, Preprocess | None)
  check_type("order", order, ExampleOrder | None)
  check_type("objective", objective, str | Objective)
  preprocess = preprocess or Preprocess()
  embeds = models.entry(model).embeds if isinstance(model, str) else hasattr(model, "embed")
  if verification and not embeds:
    able = ", ".join(name for name, entry in models.MODELS.items() if entry.embeds)
    title = repr(model) if isinstance(model, str) else type(model).__name__
    raise UserError(f"model {title} has no embedding to verify identities by; choose {able}.")
  if not verification and source.test_names is not None:
    raise UserError(
      f"the test classes of {source.name!r} are not the training ones, so images cannot be put into"
      " them; choose the task verification."
    )
  _check_objective(objective, kind, source, preprocess, verification)
  for name in (choice.model for choice in members) if members else (model,):
    if isinstance(name, str) and not _serves(models.entry(name), kind):
      able = ", ".join(name for name, entry in models.MODELS.items() if _serves(entry, kind))
      raise UserError(f"model {name!r} does not serve {kind}; choose one of {able}.")
  if members and (verification or objective != "classification"):
    raise UserError("an ensemble votes on classes; drop its members or take another task.")
  scale, targets = None, train.targets
  if kind == "regression":
    assert targets is not None
    assert source.test.targets is not None
    scale = units(targets, source.test.targets)
    targets = scale.standard(targets)
  # Of several processes each has the images of its own clients alone.
  alone = jax.process_count() == 1
  readable = np.arange(len(train.labels)) if alone else local_examples(partition)
  values = value_range(train.images, readable)
  strengths = None
  if preprocess.feature_shift:
    if far_outside(train.images.dtype, values):
      raise UserError(
        "a feature shift is in units of images from 0 to 1, and these hold values from"
        f" {values[0]:g} to {values[1]:g}; scale the images to 0 to 1."
      )
    num_clients = len(partition.offsets) - 1
    strengths = client_strengths(preprocess.feature_shift, num_clients, preprocess.feature_scale)
  outputs = len(source.target_names or source.class_names)
  if kind != "regression" and outputs < 2:
    raise UserError(f"a classifier needs at least 2 classes; the data has {outputs}.")
  image_shape = train.images.shape[1:]
  built: nn.Module
  output_shape = (*(image_shape[:2] if kind == "segmentation" else ()), outputs)
  if members:
    built = make_ensemble(members, outputs, image_shape, stem)
  elif isinstance(model, nn.Module):
    if stem != "auto":
      raise UserError(f"a module of your own has no stem to choose; drop the stem {stem!r}.")
    built = adapt(model, norm, image_shape, output_shape)
  elif norm is None:
    raise UserError(f"model {model!r} needs a norm; give one, such as make_norm('bn').")
  else:
    built = models.create(model, norm, outputs, image_shape, stem)
  data = federate(train, partition, strengths, order, targets, span)
  if isinstance(objective, Objective):
    check_loss(objective, output_shape, data.targets)
  return Task(
    built,
    source,
    data,
    *make_transforms(preprocess, train.images, statistics=statistics),
    make_pairs(source.test.labels) if verification else None,
    "ensemble" if members else objective,
    scale,
    values,
  )


def far_outside(dtype: np.dtype, values: tuple[float, float]) -> bool:
  """Whether floating images go far beyond 0 to 1; uint8 ones are divided by 255."""
  return dtype != np.uint8 and not (values[0] >= -1 and values[1] <= 2)


def _kind(source: Source) -> str:
  """Of ``objectives.TASKS``, what a source was loaded for: labels, numbers or pixel classes."""
  if source.train.targets is None:
    return "classification"
  return "regression" if source.train.targets.dtype.kind == "f" else "segmentation"


def _check_objective(
  objective: str | Objective, kind: str, source: Source, preprocess: Preprocess, verification: bool
) -> None:
  """Refuses what does not fit what the model is to say."""
  if isinstance(objective, str) and objective not in TASKS:
    raise UserError(f"unknown objective {objective!r}; choose one of {', '.join(TASKS)}.")
  if isinstance(objective, str) and objective != kind:
    raise UserError(
      f"the source {source.name!r} was not loaded for {objective}; load it with that objective."
    )
  if verification and kind != "classification":
    raise UserError(f"identities are learnt by classification, not by {kind}; drop one.")
  if kind == "segmentation" and preprocess.augment != "none":
    raise UserError(
      f"the augmentation {preprocess.augment!r} moves images and leaves the classes of their "
      "pixels where they are; drop it."
    )


def _serves(entry: Entry, kind: str) -> bool:
  """Whether a model says what the task is about; a centre loss is of classes alone."""
  if kind == "segmentation":
    return entry.segments
  return not entry.segments and (kind == "classification" or not entry.embeds)
