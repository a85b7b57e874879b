"""Clients that share kernels on an accelerator: those of SSGD, of FedAvg with one local step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.collectives import equations
from helpers.reference_fedavg import distance, random_variables
from helpers.settings import built, configure, plain
from helpers.step_world import KEY, run_rounds, skewed

from fedjax_norm import client_mapping, norm
from fedjax_norm.algorithms import averaging
from fedjax_norm.algorithms.fedavg import FEDAVG
from fedjax_norm.algorithms.round_algorithm import RoundContext
from fedjax_norm.algorithms.ssgd import SSGD
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.models.resnet import ResNet
from fedjax_norm.ops import conv

SHAPE, SIZES, BATCH = (6, 6, 1), (5, 9, 12, 4), 4  # some batches of the first client have padding
HEAVY = plain(batch_size=BATCH, momentum=0.9, weight_decay=5e-3, clip_norm=1.0)
RATES = np.full(3, 0.2, np.float32)
NET = ResNet((1,), 4, norm.create("gn", groups=2), 4)


@pytest.fixture(scope="module")
def make(tiny_source):
  """Returns (data, make), where make(model, chunk, options) is an algorithm."""
  data = skewed(tiny_source, SIZES)
  transform = make_transforms(Preprocess(augment="none"), tiny_source.train.images)[0]

  def make(model, chunk=0, method=SSGD, **options):
    mapping = client_mapping.ClientMapping("vmap", chunk)
    config = configure(method.config, HEAVY, **options)
    return built(method, config, model, mapping, data, transform, SHAPE)

  return data, make


@pytest.mark.parametrize(
  ("name", "chunk", "options"),
  [
    ("sync_bn", 0, {"batch_split": "proportional", "batch_stats": "moments"}),
    ("bn", 2, {"weighting": "uniform", "batch_stats": "local"}),
    ("gn", 3, {"frozen_paths": frozenset({"Dense_0/kernel"}), "accumulate": 2}),
  ],
)
def test_equals_a_backward_pass_for_each_client(make, tiny_net, monkeypatch, name, chunk, options):
  """In one chunk and in two, with padding in place of a client, and batches that are not full.

  Without epsilon, a batch norm of no examples is NaN.
  """
  data, make = make
  norm_options = {"gn": {"groups": 2}, "bn": {"epsilon": 0.0}}.get(name, {})
  model = tiny_net(norm=norm.create(name, **norm_options))
  start, cohort = random_variables(model, SHAPE), (2, 0, -1, 3)
  runs = []
  for platform in ("cpu", "gpu"):
    monkeypatch.setattr(averaging, "default_platform", lambda platform=platform: platform)
    runs.append(run_rounds(make(model, chunk, **options), start, data, RATES, clients=cohort))
  actual, expected = runs[::-1]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), actual, expected)
  moved = distance(jax.tree.map(lambda a: a[-1], expected[0].variables["params"]), start["params"])
  assert moved > 0.1


def images_of_convolutions(data, algorithm, model):
  """Returns, for each convolution of a round, the axes (images, channels) with all images."""
  server = algorithm.init(random_variables(model, SHAPE))
  context = RoundContext(data, jnp.int32(0), jnp.float32(0.1), KEY, jnp.float32(0))
  cohort, states = jnp.arange(len(SIZES)), algorithm.init_client(server)
  jaxpr = jax.make_jaxpr(algorithm.round)(server, states, cohort, context).jaxpr
  axes = []
  for equation in equations(jaxpr):
    if equation.primitive.name == "conv_general_dilated":
      layout = equation.params["dimension_numbers"].lhs_spec[:2]
      groups = equation.params["feature_group_count"], equation.params["batch_group_count"]
      shape = [equation.invars[0].aval.shape[axis] for axis in layout]
      axes.append([i for i in (0, 1) if shape[i] == len(SIZES) * BATCH and groups == (1, 1)])
  return axes


def test_each_part_of_a_convolution_runs_once_for_the_images_of_all_clients(make, monkeypatch):
  monkeypatch.setattr(averaging, "default_platform", lambda: "gpu")
  data, make = make
  # Three convolutions; the gradient of the input images is not needed.
  axes = images_of_convolutions(data, make(NET), NET)
  assert sorted(axes) == [[0]] * (3 + 2) + [[1]] * 3  # kernel gradients sum over the images


@pytest.mark.parametrize(("steps", "joint"), [(1, 3 + 3), (2, 0)])
def test_one_local_step_of_fedavg_shares_the_kernels(make, monkeypatch, steps, joint):
  """The gradient of the input images is traced too; XLA drops it."""
  monkeypatch.setattr(conv, "default_platform", lambda: "gpu")
  data, make = make
  algorithm = make(NET, method=FEDAVG, local_steps=steps)
  assert images_of_convolutions(data, algorithm, NET).count([0]) == joint


def test_one_local_step_of_fedavg_is_ssgd(make, tiny_net):
  data, make = make
  model = tiny_net(norm=norm.create("bn"))
  start, cohort = random_variables(model, SHAPE), (2, 0, -1, 3)
  plain = {"momentum": 0.0, "clip_norm": 0.0}
  fedavg = make(model, method=FEDAVG, local_steps=1, weighting="processed", **plain)
  one, other = (
    run_rounds(algorithm, start, data, RATES, clients=cohort)[0].variables
    for algorithm in (fedavg, make(model, **plain))
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), one, other)
