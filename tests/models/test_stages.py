"""Models run stage by stage with the same variables and values as in one call."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.torch_units import KEY, images, randomized, shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm import models, tree_leaves
from fedjax_norm.errors import UserError
from fedjax_norm.models.face import Face
from fedjax_norm.models.flops import layer_macs
from fedjax_norm.models.googlenet import GoogLeNet
from fedjax_norm.models.inception import InceptionV3
from fedjax_norm.models.layers import Dense
from fedjax_norm.models.resnet import ResNet
from fedjax_norm.models.stages import Stage, Staged, describe, position, stage_names
from fedjax_norm.norm import Mode, create

BN, NONE, FIXUP = create("bn"), create("none"), create("fixup")
SHAPE = (32, 32, 3)


class Flat(Staged):
  """Stages without parameters before and after one with parameters."""

  def stages(self) -> Sequence[Stage]:
    def flatten(x, mode):
      return x.reshape(len(x), -1)

    def dense(x, mode):
      return Dense(4, NONE, name="dense")(x, mode)

    return (
      ("flatten", flatten),
      ("dense", dense),
      ("relu", lambda x, _: jax.nn.relu(x)),
      ("head", lambda x, _: x),
    )


def model_of(name):
  return models.entry(name).build(norm=NONE, num_classes=4)


def range_shapes(model, begin=None, end=None, x=None):
  """Returns the shapes of the output and the variables of a range of stages, by default all."""
  stages = () if begin is None else (begin, end)
  x = jnp.zeros((1, *SHAPE)) if x is None else x
  return jax.eval_shape(lambda x: model.init_with_output(KEY, x, Mode(), *stages), x)


# The three models left out share the code of smaller ones and take as long as all others together.
@pytest.mark.parametrize("name", sorted({*models.MODELS} - {"resnet18", "resnet50", "googlenet"}))
def test_the_stages_partition_the_variables_of_every_model(name):
  model = model_of(name)
  y, whole = range_shapes(model)
  x, parts = None, {}
  for index in range(len(stage_names(model))):
    x, variables = range_shapes(model, index, index + 1, x)
    variables = tree_leaves.flatten(variables)
    assert x.ndim >= 2  # one tensor crosses
    assert not variables.keys() & parts.keys()
    parts |= variables
  assert parts == tree_leaves.flatten(whole)
  assert x == y


SMALL = {
  "cnn": (models.create("cnn", BN, 3, (8, 8, 1)), (8, 8, 1)),  # has dropout in two stages
  "fixup": (ResNet((1, 1), 4, FIXUP, 3, bottleneck=True), (8, 8, 2)),
  "face": (Face(BN, 3, (1,), (4,), 5), (8, 8, 1)),  # has an auxiliary loss
}


@functools.cache
def passes(name):
  """Runs training passes stage by stage and in one call: (model, variables, results of both)."""
  model, shape = SMALL[name]
  variables, x = randomized(shapes(model, shape)), images(3, *shape)
  mode = Mode(train=True, labels=np.array([0, 2, 2], np.int32))

  def run(variables, x, *stages):
    mutable = ["batch_stats", "losses"]
    return model.apply(variables, x, mode, *stages, mutable=mutable, rngs={"dropout": KEY})

  @jax.jit
  def both(variables, x):
    outputs, changes, y = [], {}, x
    for index in range(len(stage_names(model))):
      y, changed = run({**variables, **changes}, y, index, index + 1)
      outputs.append(y)
      changes |= changed
    return outputs, changes, *run(variables, x)

  return model, variables, both(variables, x)


@pytest.mark.parametrize("name", SMALL)
def test_stage_by_stage_equals_one_call(name):
  """In outputs, running statistics, auxiliary losses and dropout."""
  _, _, (outputs, changes, y, changed) = passes(name)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    (outputs[-1], changes),
    (y, changed),
  )
  assert ("losses" in changed) == (name == "face")
  if name == "cnn":
    assert (np.asarray(outputs[2]) == 0).mean() > 0.4


def test_a_range_is_initialized_like_the_whole_model():
  model, shape = SMALL["face"]
  whole = tree_leaves.flatten(models.init(model, KEY, shape))
  # The last two stages, one of which is in a separate module.
  names = stage_names(model)
  x = jnp.zeros((1, *describe(model, shape)[-3].shape))
  part = jax.jit(lambda x: model.init(KEY, x, Mode(), len(names) - 2, len(names)))(x)
  part = tree_leaves.flatten(part)
  assert {path.split("/")[1] for path in part} == {"trunk", "classifier", "centers"}
  for path, value in part.items():
    np.testing.assert_array_equal(value, whole[path])


def test_an_embedding_is_the_input_of_the_head():
  model, variables, (outputs, *_) = passes("face")
  x = images(3, *SMALL["face"][1])
  embed = jax.jit(
    lambda v, x: model.apply(v, x, Mode(train=True), method="embed", mutable=["batch_stats"])[0]
  )
  np.testing.assert_allclose(embed(variables, x), outputs[-2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("model", "stage", "channels", "expected"),
  [
    (GoogLeNet(NONE, 4), "inception_4a", 480, {"auxiliary_4a"}),
    (GoogLeNet(NONE, 4), "inception_4b", 512, set()),
    (GoogLeNet(NONE, 4), "inception_4d", 512, {"auxiliary_4d"}),
    (InceptionV3(NONE, 4), "module_c3", 768, set()),
    (InceptionV3(NONE, 4), "module_c4", 768, {"Auxiliary_0"}),
  ],
)
def test_auxiliary_losses_belong_to_the_stage_of_their_classifier(model, stage, channels, expected):
  index = stage_names(model).index(stage)

  def run(x):
    mode = Mode(train=True, labels=jnp.zeros(2, jnp.int32))
    variables = model.init(KEY, x, Mode(), index, index + 1)
    return model.apply(variables, x, mode, index, index + 1, mutable=["losses"], rngs=rngs)[1]

  rngs = {"dropout": KEY}
  collections = jax.eval_shape(run, jnp.zeros((2, 4, 4, channels)))
  assert set(collections.get("losses", ())) == expected


def test_sizes_of_stages_by_hand():
  tiny = models.create("tiny", BN, 5, (7, 6, 2))
  assert describe(tiny, (7, 6, 2)) == (
    ("conv1", (7, 6, 32), 9 * 2 * 32 + 64, 64, 7 * 6 * 32 * 9 * 2),
    ("conv2", (4, 3, 64), 9 * 32 * 64 + 128, 128, 4 * 3 * 64 * 9 * 32),
    ("conv3", (4, 3, 64), 9 * 64 * 64 + 128, 128, 4 * 3 * 64 * 9 * 64),
    ("head", (5,), 64 * 5 + 5, 0, 64 * 5),
  )
  assert [info.parametric for info in describe(Flat(), (2, 2, 1))] == [False, True, False, False]


@pytest.mark.parametrize(
  ("name", "size", "expected"),
  [
    ("lenet5", (28, 28, 1), {"conv1": 520, "conv2": 25_050, "dense": 400_500, "head": 5_010}),
    (
      "vgg16",
      (32, 32, 3),
      {"conv1_1": 1_792, "conv5_3": 2_359_808, "dense1": 262_656, "head": 5_130},
    ),
  ],
)
def test_stages_of_the_papers_models(name, size, expected):
  infos = {info.name: info for info in describe(models.create(name, NONE, 10, size), size)}
  assert {stage: infos[stage].parameters for stage in expected} == expected
  total = {"lenet5": 431_080, "vgg16": 14_982_474}[name]
  assert sum(info.parameters for info in infos.values()) == total
  macs = layer_macs(models.create(name, NONE, 10, size), size)
  assert sum(info.macs for info in infos.values()) == sum(macs.values())


NAMES = stage_names(model_of("resnet10"))


@given(st.integers(0, len(NAMES) - 2))
@settings(max_examples=10)
def test_a_cut_is_after_its_stage(index):
  assert position(model_of("resnet10"), NAMES[index]) == index + 1


def test_names_of_blocks():
  assert NAMES == ("stem", "block1_1", "block2_1", "block3_1", "block4_1", "head")


@pytest.mark.parametrize(
  ("model", "name", "message"),
  [
    (model_of("tiny"), "conv4", "unknown stage 'conv4'; .* after conv1, conv2, conv3\\."),
    (model_of("tiny"), "head", "'head' is the last, .* conv1, conv2, conv3\\."),
    (Flat(), "flatten", "before the first stage with parameters, .* cut after dense\\."),
  ],
)
def test_invalid_cuts_are_refused(model, name, message):
  with pytest.raises(UserError, match=message):
    position(model, name, (8, 8, 3))


def test_a_cut_after_a_stage_without_parameters_is_valid_after_parameters():
  assert position(Flat(), "relu", (2, 2, 1)) == 3
