"""The learning task: data divided over clients, preprocessing, and the model to train."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from fedjax_norm import models
from fedjax_norm.data import held_out as held
from fedjax_norm.data.example_order import FOREVER, ExampleOrder
from fedjax_norm.data.examples import Examples, Source, value_range
from fedjax_norm.data.federated import FederatedData, Transform, federate
from fedjax_norm.data.held_out import HeldOutExamples
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.sources.in_memory import Arrays, to_partition, to_source
from fedjax_norm.data.transforms.augment import client_strengths
from fedjax_norm.data.transforms.preprocess import (
  EvalTransform,
  Preprocess,
  Statistics,
  fit,
  transforms_of,
)
from fedjax_norm.errors import UserError, check_type
from fedjax_norm.evaluation.regression import TargetScale, target_scale
from fedjax_norm.evaluation.verification import Pairs, make_pairs
from fedjax_norm.models.registry import Entry
from fedjax_norm.models.user_module import adapt
from fedjax_norm.norm import NormSpec
from fedjax_norm.objectives import TASKS, Objective, check_loss
from fedjax_norm.split.ensemble_members import MemberSpec, make_ensemble
from fedjax_norm.training.placement.client_placement import local_examples


class Task(NamedTuple):
  """The data of all clients and the model to train on it.

  Attributes:
    model: the model, not bound to a named device axis.
    source: the training and test data before they are divided over clients.
    data: the training data of all clients, as host arrays.
    transform: transformation of training images.
    plain_transform: transformation of training images without augmentation.
    eval_transform: transformation of test images.
    pairs: pairs of test images for verification; None for other tasks.
    objective: training objective: a key of ``objectives.OBJECTIVES``, or user-defined.
    units: scales of the regression targets; None for other tasks.
    value_range: smallest and largest stored value in a sample of the training images.
    statistics: what the transforms need to know of the training images (see ``preprocess.fit``).
    validation: held-out examples of the K clients, with the client of each; None if there are none.
    unseen: examples of the U clients that never train, with the client of each from K to K + U - 1;
      None if all clients train. ``source.test`` has none of them (``held_out.move_tests``).
    natural_ids: [K + U] int32, the natural client that each client is; None if clients are not
      those that the data names.
  """

  model: nn.Module
  source: Source
  data: FederatedData
  transform: Transform
  plain_transform: Transform
  eval_transform: EvalTransform
  pairs: Pairs | None = None
  objective: str | Objective = "classification"
  units: TargetScale | None = None
  value_range: tuple[float, float] = (0.0, 1.0)
  statistics: Statistics = MappingProxyType({})
  validation: Examples | None = None
  unseen: Examples | None = None
  natural_ids: np.ndarray | None = None

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of an image."""
    return self.source.train.images.shape[1:]

  @property
  def num_classes(self) -> int:
    """Number of classes of the labels."""
    return len(self.source.class_names)

  @property
  def num_outputs(self) -> int:
    """Number of the model's outputs: logits of classes, or regression targets."""
    return len(self.source.target_names or self.source.class_names)

  @property
  def user_objective(self) -> Objective | None:
    """The user-defined objective; None for a key of ``objectives.OBJECTIVES``."""
    return self.objective if isinstance(self.objective, Objective) else None

  @property
  def kind(self) -> str:
    """What the test measures, for messages: verification, a name in ``TASKS``, or only the loss."""
    if self.pairs:
      return "verification"
    kind = _kind(self.source)
    if kind == "classification" and self.user_objective and not self.user_objective.correct:
      return "an objective without correct"
    return kind

  @property
  def test_targets(self) -> np.ndarray:
    """[N, ...] targets that the model's outputs for the test images are compared with."""
    return self.targets_of(self.source.test)

  def targets_of(self, examples: Examples) -> np.ndarray:
    """Returns the targets [N, ...] that the model's outputs for the examples are compared with."""
    if examples.targets is None:
      return examples.labels.astype(np.int32)
    return self.units.standard(examples.targets) if self.units else examples.targets

  @property
  def test_owners(self) -> np.ndarray | None:
    """[N] int32, the client of each test example or -1; None if the data names none of them."""
    natural, given = self.natural_ids, self.source.test.clients
    if natural is None or given is None:
      return None
    number = np.full(max(natural.max(), given.max()) + 2, -1, np.int32)  # the last one is for -1
    number[natural[: self.data.num_clients]] = np.arange(self.data.num_clients)
    owners: np.ndarray = number[given]
    return owners if (owners >= 0).any() else None

  @property
  def client_names(self) -> tuple[str, ...] | None:
    """Names of the clients and then of the unseen clients; None if the data does not name them."""
    if self.natural_ids is None or self.source.client_names is None:
      return None
    return tuple(self.source.client_names[k] for k in self.natural_ids)


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
  pairs: Pairs | None = None,
  order: ExampleOrder | None = None,
  span: int | np.ndarray = FOREVER,
  objective: str | Objective = "classification",
  members: Sequence[MemberSpec] = (),
  held_out: HeldOutExamples | None = None,
) -> Task:
  """Builds a task from data, a partition over clients, a norm and a model.

  Args:
    source: a data source, or four arrays (see ``data.sources.in_memory.to_source``).
    partition: partition of the training examples over clients, the client of each example, or the
      example ids of each client (see ``data.sources.in_memory.to_partition``).
    norm: normalization after each convolution; optional for a user-defined module.
    model: a key of ``models.MODELS``, or a user-defined flax module (see ``models.user_module``).
    preprocess: options of the image preprocessing.
    stem: name of the model's first layers, for models with a choice (see ``models.create``).
    statistics: mean and standard deviation of each channel; None computes them from the source.
    verification: whether the test verifies identities by embeddings, on fixed pairs of test images.
    pairs: the pairs for ``verification``; None draws them.
    order: order in which each client draws examples; None is random.
    span: with a drift in ``order``, number of local steps before it changes the examples, one
      number or one per client [K] (see ``example_order.steps_per_stretch``).
    objective: the name in ``objectives.TASKS`` that the source was loaded for, or a user-defined
      objective, which also defines the test loss and the accuracy. Regression targets are
      standardized to mean 0 and standard deviation 1 over all clients' training examples.
    members: models of an ensemble, instead of ``model``; the task's objective is ``ensemble``.
    held_out: examples that were held out of ``source`` and ``partition`` (``held_out.hold_out``).

  Raises:
    UserError: an argument has a wrong type, two arguments do not fit together, or
      ``preprocess`` has a feature shift and image values are far outside 0 to 1.
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
    choices = ", ".join(name for name, entry in models.MODELS.items() if entry.embeds)
    title = repr(model) if isinstance(model, str) else type(model).__name__
    raise UserError(f"model {title} has no embedding for verification; choose one of {choices}.")
  if not verification and source.test_names is not None:
    raise UserError(
      f"a model cannot predict the test classes of {source.name!r}, which differ from the training"
      " classes; choose the task verification."
    )
  _check_objective(objective, kind, source, preprocess, verification)
  for name in (choice.model for choice in members) if members else (model,):
    if isinstance(name, str) and not _supports(models.entry(name), kind):
      choices = ", ".join(n for n, entry in models.MODELS.items() if _supports(entry, kind))
      raise UserError(f"model {name!r} does not support {kind}; choose one of {choices}.")
  if members and (verification or objective != "classification"):
    raise UserError("an ensemble votes on classes; drop members, or choose task classification.")
  scale, targets = None, train.targets
  if kind == "regression":
    assert targets is not None
    assert source.test.targets is not None
    scale = target_scale(targets, source.test.targets)
    targets = scale.standard(targets)
  # With several processes, each has only the images of its local clients.
  single = jax.process_count() == 1
  readable = np.arange(len(train.labels)) if single else local_examples(partition)
  values = value_range(train.images, readable)
  strengths, validation, unseen, statistics_images = None, None, None, train.images
  natural_ids = held.natural_clients(partition, train.clients)
  if held_out:
    validation, unseen = held_out.validation, held_out.unseen
    statistics_images, natural_ids = held_out.images, held_out.natural_ids
  if preprocess.feature_shift:
    if far_outside(train.images.dtype, values):
      raise UserError(
        "a feature shift assumes image values from 0 to 1, but the training images' values range"
        f" from {values[0]:g} to {values[1]:g}; scale the images to 0 to 1."
      )
    shift, num_clients = preprocess.feature_shift, len(partition.offsets) - 1
    ids = held_out.partition_ids if held_out else np.arange(num_clients)
    strengths = client_strengths(shift, len(ids), preprocess.feature_scale)[ids]
    validation, unseen = (held.shifted(part, shift, strengths) for part in (validation, unseen))
    strengths = strengths[:num_clients]
  outputs = len(source.target_names or source.class_names)
  if kind != "regression" and outputs < 2:
    raise UserError(f"a classifier needs at least 2 classes; the data has {outputs}.")
  image_shape = train.images.shape[1:]
  output_shape = (*(image_shape[:2] if kind == "segmentation" else ()), outputs)
  if members:
    built: nn.Module = make_ensemble(members, outputs, image_shape, stem)
  elif isinstance(model, nn.Module):
    if stem != "auto":
      raise UserError(f"a user-defined module has no stem to choose; drop stem={stem!r}.")
    built = adapt(model, norm, image_shape, output_shape)
  elif norm is None:
    raise UserError(f"model {model!r} needs a norm; give one, such as make_norm('bn').")
  else:
    built = models.create(model, norm, outputs, image_shape, stem)
  fitted = fit(preprocess, statistics_images, statistics)
  data = federate(train, partition, strengths, order, targets, span)
  if isinstance(objective, Objective):
    check_loss(objective, output_shape, data.targets)
  return Task(
    built,
    source,
    data,
    *transforms_of(preprocess, fitted),
    make_pairs(source.test.labels) if verification and pairs is None else pairs,
    "ensemble" if members else objective,
    scale,
    values,
    fitted,
    validation,
    unseen,
    natural_ids,
  )


def far_outside(dtype: np.dtype, values: tuple[float, float]) -> bool:
  """Returns whether images have (smallest, largest) ``values`` far outside 0 to 1; uint8 never."""
  return dtype != np.uint8 and not (values[0] >= -1 and values[1] <= 2)


def _kind(source: Source) -> str:
  """Returns the name in ``objectives.TASKS`` that a source was loaded for."""
  if source.train.targets is None:
    return "classification"
  return "regression" if source.train.targets.dtype.kind == "f" else "segmentation"


def _check_objective(
  objective: str | Objective, kind: str, source: Source, preprocess: Preprocess, verification: bool
) -> None:
  """Raises a UserError if the source, preprocessing or verification does not fit the objective."""
  if isinstance(objective, str) and objective not in TASKS:
    raise UserError(f"unknown objective {objective!r}; choose one of {', '.join(TASKS)}.")
  if isinstance(objective, str) and objective != kind:
    raise UserError(
      f"the source {source.name!r} was loaded for {kind}; load it for {objective}, your objective."
    )
  if verification and kind != "classification":
    raise UserError(f"verification compares class labels, which {kind} lacks; drop verification.")
  if kind == "segmentation" and preprocess.augment != "none":
    raise UserError(
      f"the augmentation {preprocess.augment!r} moves images but not the classes of their pixels; "
      "choose augment='none'."
    )


def _supports(entry: Entry, kind: str) -> bool:
  """Returns whether a model has the outputs of a task; a center loss needs classes."""
  if kind == "segmentation":
    return entry.segments
  return not entry.segments and (kind == "classification" or not entry.embeds)
