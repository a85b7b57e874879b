"""FedAvg on a small federated data set, by the library and by the slow reference."""

import dataclasses
import functools

import helpers.reference_fedavg as reference
import jax
import numpy as np
from helpers import norm_rows
from helpers.settings import built, configure, plain

from fedjax_norm import client_mapping, norm
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.data.federated import federate
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.local_training import Metrics
from fedjax_norm.models.resnet import ResNet
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.device_arrays import placer
from fedjax_norm.training.rounds import compile_interval

SHAPE = (6, 6, 1)


SIZES = (5, 9, 12, 4)  # with batches of 4: 2, 3, 3 and 1 steps an epoch, the last ones padded


ALL = [list(range(len(SIZES)))] * 3


SOME = [[2, 0], [3, 1], [1, 2]]


RATES = [0.2, 0.1, 0.3]


KEY = jax.random.key(7)


random_variables = functools.partial(reference.random_variables, image_shape=SHAPE)


NORMS = ["Norm_0"]


SPECS = {
  **norm_rows.SPECS,
  "bgn": norm.create("bgn", groups=2, decay=0.5),  # a decay with which the policies differ
  "frozen": norm.create("fixbn").frozen(),
}


FOUR = plain(batch_size=4)


HEAVY = dataclasses.replace(FOUR, momentum=0.9, weight_decay=5e-3)


SCAN = client_mapping.create("scan", num_clients=4)


@dataclasses.dataclass(frozen=True)
class World:
  """The small federated data set, its model and transforms, and the compiled settings.

  Attributes:
    source: training and test images.
    net: class of the small model.
    transforms: transform of images, with and without augmentation.
    compiled: ``Fast`` of each setting.
  """

  source: object
  net: type
  transforms: dict
  compiled: dict

  def data(self, sizes=SIZES):
    ids = np.random.default_rng(3).permutation(len(self.source.train.labels))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return federate(self.source.train, Partition(ids[: offsets[-1]], offsets))

  def transform(self, augment=False):
    return self.transforms[augment]

  def model(self, name, **fields):
    if name == "fixup":
      return ResNet((1, 1), 4, SPECS[name], 4)
    return self.net(norm=SPECS[name], **fields)

  def fast(self, name, config, mapping=None, *, sizes=SIZES, augment=False, **fields):
    """Returns the ``Fast`` of some settings, which is compiled once for all tests."""
    arguments = (self.model(name, **fields), config, mapping or SCAN)
    key = (*arguments, sizes, augment)
    if key not in self.compiled:
      model, config, mapping = arguments
      fast = Fast(model, config, self.data(sizes), self.transform(augment), mapping)
      self.compiled[key] = fast
    return self.compiled[key]


@dataclasses.dataclass
class Fast:
  """FedAvg by the library, in one compiled interval of rounds."""

  model: object
  config: FedAvgConfig
  data: object
  transform: object
  mapping: client_mapping.ClientMapping = SCAN

  def __post_init__(self):
    arguments = (self.model, self.mapping, self.data, self.transform, SHAPE)
    self.algorithm = built(FEDAVG, self.config, *arguments)
    self.interval = compile_interval(self.algorithm, self.mapping)

  def begin(self):
    """Returns (server state, client states) before the first round, host arrays."""
    server = self.algorithm.init(random_variables(self.model))
    store = ClientStore(self.algorithm.init_client(server), self.data.num_clients)
    return jax.tree.map(np.asarray, server), store.arrays

  def arguments(self, cohorts, rates, first=0, begin=0, end=None):
    """Returns the interval's arguments after the states; client k is in row k."""
    cohorts = np.asarray(cohorts, np.int32)
    bounds = np.int32(first), np.int32(begin), np.int32(len(cohorts) if end is None else end)
    rates = np.float32(rates)
    values = (Metrics.zeros(), cohorts, rates, np.zeros_like(rates), *bounds, self.data)
    place = placer(self.mapping)
    return (*map(place, values), place(KEY))

  def run(self, cohorts=SOME, rates=RATES):
    """Returns (server state, client states, metrics) after all rounds, host arrays."""
    states = map(placer(self.mapping), self.begin())
    out = self.interval(*states, *self.arguments(cohorts, rates))
    return jax.tree.map(np.asarray, out)


def slow(fast, cohorts=SOME, rates=RATES, **options):
  """Returns the slow reference's result of the rounds of a ``Fast``."""
  variables = random_variables(fast.model)
  arguments = (fast.model, fast.config, fast.data, fast.transform, variables, cohorts, rates, KEY)
  return reference.fedavg(*arguments, norm_layers=NORMS, **options)


def close_runs(a, b):
  """Asserts that two results of ``Fast.run`` are equal to float tolerance."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5)


def same_bits(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def local(**fields):
  return dataclasses.replace(FOUR, **fields)


OPTIONS = {
  "uniform": configure(FedAvgConfig, FOUR, local_steps=2, weighting="uniform"),
  "momentum reset, epochs": configure(FedAvgConfig, HEAVY, local_epochs=1),
  "momentum local": configure(FedAvgConfig, HEAVY, local_steps=2, client_momentum="local"),
  "momentum global, processed": configure(
    FedAvgConfig, HEAVY, local_epochs=1, weighting="processed", client_momentum="global"
  ),
  "nesterov, clip": configure(
    FedAvgConfig,
    local(momentum=0.8, nesterov=True, clip_norm=0.3),
    local_steps=2,
    client_momentum="local",
  ),
  "clip, decay": configure(FedAvgConfig, local(clip_norm=0.1, weight_decay=0.2), local_steps=2),
  "prox, clip": configure(
    FedAvgConfig, local(clip_norm=0.3, momentum=0.5), prox=2.0, local_steps=3
  ),
}


def make_world(source, net) -> World:
  """Returns the world of a source and a small network."""
  transforms = {
    augment: make_transforms(
      Preprocess(augment="crop_flip" if augment else "none"), source.train.images
    )[0]
    for augment in (False, True)
  }
  return World(source, net, transforms, {})
