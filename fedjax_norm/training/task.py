"""What is to be learnt: a source, its partition over clients, a model and the preprocessing."""

from typing import NamedTuple

import numpy as np
from flax import linen as nn

from fedjax_norm import models
from fedjax_norm.data.augment import client_strengths
from fedjax_norm.data.examples import Source
from fedjax_norm.data.federated import FederatedData, Transform, federate
from fedjax_norm.data.order import Order
from fedjax_norm.data.partition import Partition
from fedjax_norm.data.preprocess import EvalTransform, Preprocess, make_transforms
from fedjax_norm.errors import UserError
from fedjax_norm.norm import NormSpec
from fedjax_norm.training.verification import Pairs, make_pairs


class Task(NamedTuple):
  """A federation and its model.

  Attributes:
    model: the model, unbound to any axis.
    source: the data it came from.
    data: the federation, host arrays.
    transform: of training images.
    plain_transform: of training images, without augmentation.
    eval_transform: of test images.
    pairs: of test images, which verification tells apart; None classifies them.
  """

  model: nn.Module
  source: Source
  data: FederatedData
  transform: Transform
  plain_transform: Transform
  eval_transform: EvalTransform
  pairs: Pairs | None = None

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return self.source.train.images.shape[1:]

  @property
  def num_classes(self) -> int:
    """C."""
    return len(self.source.class_names)


def make_task(
  source: Source,
  partition: Partition,
  norm: NormSpec,
  model: str = "tiny",
  *,
  preprocess: Preprocess | None = None,
  feature_scale: float = 1.0,
  stem: str = "auto",
  statistics: tuple[np.ndarray, np.ndarray] | None = None,
  verification: bool = False,
  order: Order | None = None,
) -> Task:
  """Puts a task together.

  Args:
    source: the data.
    partition: of its training examples over clients.
    norm: after each convolution.
    model: a key of ``models.MODELS``.
    preprocess: of the images.
    feature_scale: the largest strength of the feature shift, if the preprocessing has one.
    stem: of the models that have several (see ``models.create``).
    statistics: the channels' mean and deviation; None takes those of the source's images.
    verification: whether the test is to tell identities apart by their embeddings, on the same
      pairs of test images in every run.
    order: how each client goes through its examples; None is at random.

  Raises:
    UserError: a model that does not fit the images, the norm or the test, or a test set that does
      not fit the test.
  """
  preprocess = preprocess or Preprocess()
  train = source.train
  if len(partition.order) != len(train.labels):
    raise UserError(
      f"the partition divides {len(partition.order)} examples and the source has "
      f"{len(train.labels)}; make it from this source's labels."
    )
  if verification and not models.entry(model).embeds:
    able = ", ".join(name for name, entry in models.MODELS.items() if entry.embeds)
    raise UserError(f"model {model!r} has no embedding to verify identities by; choose {able}.")
  if not verification and source.test_names is not None:
    raise UserError(
      f"the test classes of {source.name!r} are not the training ones, so images cannot be put into"
      " them; choose the task verification."
    )
  num_classes = len(source.class_names)
  strengths = None
  if preprocess.feature_shift:
    num_clients = len(partition.offsets) - 1
    strengths = client_strengths(preprocess.feature_shift, num_clients, feature_scale)
  return Task(
    models.create(model, norm, num_classes, train.images.shape[1:], stem),
    source,
    federate(train, partition, strengths, order),
    *make_transforms(preprocess, train.images, statistics=statistics),
    make_pairs(source.test.labels) if verification else None,
  )
