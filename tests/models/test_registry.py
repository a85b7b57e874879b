"""The registry: parameter counts, stems, image sizes, groups, and errors."""

import functools

import jax
import jax.numpy as jnp
import pytest
from helpers.model_runs import BN, FIXUP, KEY, NONE, WN

from fedjax_norm import models
from fedjax_norm.errors import UserError
from fedjax_norm.norm import Mode, create


@pytest.mark.parametrize(
  ("name", "norm", "image_shape", "num_classes", "stem", "expected"),
  [
    ("tiny", NONE, (8, 8, 1), 10, "auto", 56_394),
    ("lenet", NONE, (32, 32, 3), 10, "auto", 145_578),
    ("lenet", BN, (32, 32, 3), 10, "auto", 145_706),
    ("cnn", NONE, (32, 32, 3), 10, "auto", 1_626_442),
    ("niid", NONE, (32, 32, 3), 10, "auto", 62_006),
    ("niid", NONE, (28, 28, 1), 10, "auto", 44_426),
    ("resnet20", BN, (32, 32, 3), 10, "auto", 269_722),
    ("resnet20_narrow", BN, (32, 32, 3), 10, "auto", 68_050),
    ("resnet20_wide", BN, (32, 32, 3), 10, "auto", 1_073_962),
    ("resnet18", BN, (32, 32, 3), 10, "auto", 11_173_962),
    ("resnet50", BN, (32, 32, 3), 1000, "imagenet", 25_557_032),
  ],
)
def test_parameter_counts(name, norm, image_shape, num_classes, stem, expected):
  build = models.entry(name).build
  fields = {} if stem == "auto" else {"stem": stem}
  model = build(norm=norm, num_classes=num_classes, **fields)
  shapes = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, *image_shape)), Mode()))
  assert sum(a.size for a in jax.tree.leaves(shapes["params"])) == expected


@pytest.mark.parametrize(
  ("size", "stem", "expected"),
  [
    (127, "auto", "cifar"),
    (128, "auto", "imagenet"),
    (128, "cifar", "cifar"),
    (32, "imagenet", "imagenet"),
  ],
)
def test_the_image_size_chooses_the_stem(size, stem, expected):
  assert models.create("resnet10", NONE, 10, (size, 200, 3), stem).stem == expected


IMAGE = (8, 8, 3)


@pytest.mark.parametrize(
  ("name", "norm", "num_classes", "image_shape", "stem", "message"),
  [
    ("vgg", NONE, 10, IMAGE, "auto", "unknown model 'vgg'; choose one of tiny, lenet"),
    ("resnet10", NONE, 10, IMAGE, "big", "unknown stem 'big'; choose auto, cifar or imagenet"),
    ("tiny", NONE, 10, IMAGE, "cifar", "'tiny' has a single stem; drop the stem 'cifar'"),
    ("resnet20", NONE, 10, IMAGE, "imagenet", "'resnet20' has a single stem"),
    ("tiny", FIXUP, 10, IMAGE, "auto", "which 'tiny' lacks; choose resnet20, resnet20_narrow"),
    ("lenet", FIXUP, 10, IMAGE, "auto", "Fixup needs residual branches"),
    ("tiny", NONE, 10, (8, 2, 3), "auto", "at least 3x3 pixels; these are 8x2"),
    ("lenet", NONE, 10, (7, 8, 3), "auto", "at least 8x8 pixels; these are 7x8"),
    ("cnn", NONE, 10, (5, 5, 3), "auto", "at least 6x6 pixels"),
    ("resnet20", NONE, 10, (7, 7, 3), "auto", "at least 8x8 pixels"),
    ("resnet50", NONE, 10, (31, 40, 3), "imagenet", "at least 32x32 pixels; these are 31x40"),
    ("resnet10", create("in"), 10, IMAGE, "auto", "'in' would normalize single elements of a 1x1x"),
    ("tiny", create("gn", groups=5), 10, IMAGE, "auto", "5 groups do not divide .* 32 channels"),
    ("resnet20", create("gn", group_size=32), 10, IMAGE, "auto", "size of 32 does not divide"),
  ],
)
def test_create_rejects_wrong_arguments(name, norm, num_classes, image_shape, stem, message):
  with pytest.raises(UserError, match=message):
    models.create(name, norm, num_classes, image_shape, stem)


@pytest.mark.parametrize("name", ["tiny", "lenet", "lenet5", "cnn", "niid", "resnet20"])
def test_the_smallest_images_and_the_default_groups_are_accepted(name):
  entry = models.entry(name)
  shape = (entry.min_size, entry.min_size, 1)
  for norm in ("gn", "bgn"):
    model = models.create(name, create(norm), 4, shape)
    assert model.norm == create(norm, **entry.groups)
  images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
  logits = jax.eval_shape(lambda x: model.init_with_output(KEY, x, Mode())[0], images)
  assert logits.shape == (2, 4)


@pytest.mark.parametrize(
  ("name", "norm", "expected"),
  [
    ("tiny", BN, {"Norm_0": 32, "Norm_1": 64, "Norm_2": 64}),
    ("lenet", create("gn", group_size=2), {"Norm_0": 16, "Norm_1": 16, "Norm_2": 32}),
    ("cnn", create("wn", mean_only_bn=True), {"Norm_0": 32, "Norm_1": 64}),
    (
      "resnet10",
      create("ln"),
      {
        "Norm_0": 1,
        **{f"Block_{i}/Norm_{j}": 1 for i in range(4) for j in range(2)},
        **{f"Block_{i}/shortcut_norm": 1 for i in (1, 2, 3)},
      },
    ),
    ("tiny", NONE, {}),
    ("tiny", WN, {}),
    ("resnet20", FIXUP, {}),
  ],
)
def test_norm_modules_are_the_layers_that_normalize(name, norm, expected):
  model = models.create(name, norm, 10, (16, 16, 3))
  assert models.norm_modules(model, (16, 16, 3)) == expected
  # The paths are those of their parameters.
  params = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 16, 16, 3)), Mode()))["params"]
  for path, groups in expected.items():
    scope = functools.reduce(lambda tree, part: tree[part], path.split("/"), params)
    assert norm.num_groups(*scope["bias"].shape) == groups
