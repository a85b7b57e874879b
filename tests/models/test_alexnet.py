"""AlexNet against torch with the same weights and published counts; stems of the large networks."""

import functools

import jax
import pytest
import torch.nn.functional as F
from flax import linen as nn
from helpers.norm_rows import SPECS
from helpers.torch_units import (
  assert_close,
  channels_first,
  count,
  dense,
  flat,
  images,
  module_calls,
  randomized,
  shapes,
  unit,
)

from fedjax_norm import models
from fedjax_norm.errors import UserError
from fedjax_norm.models import registry
from fedjax_norm.models.alexnet import AlexNet
from fedjax_norm.norm import NAMES, Mode, create
from fedjax_norm.ops import conv

NONE, BN = create("none"), create("bn")


def torch_alexnet(stem, variables, x):
  params, x = variables["params"], channels_first(x)
  pool = functools.partial(F.max_pool2d, kernel_size=3, stride=2, ceil_mode=stem == "cifar")
  first = {"stride": 4, "padding": 2} if stem == "imagenet" else {}
  x = pool(unit(x, params["Unit_0"], **first))
  x = pool(unit(x, params["Unit_1"]))
  for i in (2, 3, 4):
    x = unit(x, params[f"Unit_{i}"])
  x = flat(pool(x))
  layers = [params[f"Dense_{i}"] for i in range(sum("Dense" in name for name in params))]
  for layer in layers[:-1]:
    x = F.relu(dense(x, layer))
  return dense(x, layers[-1])


@pytest.mark.parametrize(
  ("stem", "norm", "size"), [("cifar", BN, (18, 13, 3)), ("imagenet", NONE, (63, 79, 2))]
)
def test_alexnet_equals_torch(stem, norm, size, monkeypatch):
  # XLA's lowering compiles faster; other tests compare the lowerings.
  monkeypatch.setattr(conv, "default_platform", lambda: "gpu")
  model = AlexNet(norm, 5, stem)
  variables, x = randomized(shapes(model, size)), images(3, *size)
  mode = Mode(train=True, dropout=False)
  logits, _ = jax.jit(lambda v, x: model.apply(v, x, mode, mutable=["batch_stats"]))(variables, x)
  assert_close(logits, torch_alexnet(stem, variables, x))


@pytest.mark.parametrize(
  ("stem", "classes", "size", "expected"),
  [
    ("cifar", 10, (32, 32, 3), 765_738),  # the layers of paper 004's code
    ("imagenet", 1000, (224, 224, 3), 62_378_344),  # as one column
    ("imagenet", 1000, (227, 227, 3), 62_378_344),
  ],
)
def test_parameter_counts(stem, classes, size, expected):
  assert count(models.create("alexnet", NONE, classes, size, stem), size) == expected


@pytest.mark.parametrize(("stem", "units"), [("cifar", [512]), ("imagenet", [4096, 4096])])
def test_hidden_layers_have_dropout_of_one_half(stem, units):
  calls, _ = module_calls(AlexNet(NONE, 5, stem), (64, 64, 3), Mode(train=True), nn.Dropout)
  assert [(drop.rate, drop.deterministic, shape[1:]) for drop, shape, _ in calls] == [
    (0.5, False, (n,)) for n in units
  ]


# ------------------------------------------------------------------ also the larger networks


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("none", "fixup")])
def test_every_norm_follows_every_convolution(name):
  spec = SPECS[name]
  norms = models.norm_modules(AlexNet(spec, 5), (32, 32, 3))
  channels = (24, 64, 96, 96, 64) if spec.normalizes else ()
  assert norms == {f"Unit_{i}/Norm_0": spec.num_groups(n) for i, n in enumerate(channels)}


@pytest.mark.parametrize(
  ("name", "convolutions", "least"),
  [("vgg16", 13, 32), ("alexnet", 5, 63), ("googlenet", 57 + 2, 32), ("inception_v3", 94 + 2, 75)],
)
def test_the_smallest_images_and_the_default_groups_are_accepted(name, convolutions, least):
  gn = create("gn", **models.entry(name).groups)
  build = models.entry(name).build
  assert len(models.norm_modules(build(gn, 5, "cifar"), (8, 8, 1))) == convolutions
  assert models.norm_modules(build(NONE, 5, "imagenet"), (least, least, 3)) == {}


@pytest.mark.parametrize(
  ("name", "from_size", "least"),
  [("vgg16", 128, 32), ("alexnet", 128, 63), ("googlenet", 32, 32), ("inception_v3", 128, 75)],
)
def test_the_default_stem_and_image_sizes_that_are_rejected(name, from_size, least, monkeypatch):
  monkeypatch.setattr(registry, "norm_modules", lambda *_: {})  # tested above
  for size, option, stem in (
    (8, "auto", "cifar"),
    (from_size - 1, "auto", "cifar"),
    (from_size, "auto", "imagenet"),
    (least, "imagenet", "imagenet"),
  ):
    assert models.create(name, NONE, 5, (size, 200, 3), option).stem == stem
  for size, stem in ((7, "cifar"), (least - 1, "imagenet")):
    with pytest.raises(UserError, match=f"at least {size + 1}x{size + 1} pixels"):
      models.create(name, NONE, 5, (200, size, 3), stem)
  with pytest.raises(UserError, match="Fixup needs residual branches"):
    models.create(name, create("fixup"), 5, (64, 64, 3))
