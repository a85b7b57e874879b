"""The models: their sizes, torch with the same weights, Fixup, weight normalization, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from flax import linen as nn

from fedjax_norm import models
from fedjax_norm.errors import UserError
from fedjax_norm.models.layers import Conv, Dense
from fedjax_norm.models.resnet import Block, ResNet, Scalar
from fedjax_norm.norm import Mode, Norm, create

KEY = jax.random.key(0, impl="rbg")  # which compiles faster
TRAIN = Mode(train=True, dropout=False)
BN, NONE, FIXUP, WN = create("bn"), create("none"), create("fixup"), create("wn")


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(a) -> torch.Tensor:
  return torch.tensor(np.asarray(a))


def randomized(tree, seed=0):
  """Values for a tree of arrays or shapes, with no parameter at a special one."""
  rng = np.random.default_rng(seed)

  def draw(path, a):
    values = rng.uniform(-1, 1, a.shape)
    match path[-1].key:
      case "kernel":
        values /= np.sqrt(np.prod(a.shape[:-1]))
      case "scale" | "var" | "multiplier" | "kernel_scale":
        values += 1.05
    return np.asarray(values, np.float32)

  return jax.tree.map_with_path(draw, tree)


def calls(model, variables, x, mode=TRAIN, kinds=(Conv, Dense, Scalar, Norm, Block)):
  """Every call of a layer of these kinds in order, as (module, what goes in, what comes out)."""
  modules = []

  def run(variables, x):
    noted = []

    def note(call, args, kwargs, context):
      out = call(*args, **kwargs)
      if isinstance(context.module, kinds) and context.method_name == "__call__":
        modules.append(context.module)
        noted.append((args[0], out))
      return out

    with nn.intercept_methods(note):
      model.apply(variables, x, mode, mutable=["batch_stats"])
    return noted

  noted = jax.jit(run)(variables, x)
  return [(module, *arrays) for module, arrays in zip(modules, noted, strict=True)]


@functools.cache
def initial(model, image_shape):
  return models.init(model, KEY, image_shape)


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
  ("name", "norm", "image_shape", "num_classes", "stem", "expected"),
  [
    ("tiny", NONE, (8, 8, 1), 10, "auto", 56_394),
    ("lenet", NONE, (32, 32, 3), 10, "auto", 145_578),
    ("lenet", BN, (32, 32, 3), 10, "auto", 145_706),
    ("cnn", NONE, (32, 32, 3), 10, "auto", 1_626_442),
    ("resnet20", BN, (32, 32, 3), 10, "auto", 269_722),
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
def test_the_stem_is_chosen_by_the_images_size(size, stem, expected):
  assert models.create("resnet10", NONE, 10, (size, 200, 3), stem).stem == expected


# ------------------------------------------------------------------ torch with the same weights


def images(x) -> torch.Tensor:
  return tensor(x).permute(0, 3, 1, 2)


def torch_conv(x, params, stride=1, pads=None):
  kernel = tensor(params["kernel"]).permute(3, 2, 0, 1)
  if pads is None:  # 'SAME': what is odd goes to the end
    pads = []
    for size, taps in zip(x.shape[:1:-1], kernel.shape[:1:-1], strict=True):
      total = max((-(-size // stride) - 1) * stride + taps - size, 0)
      pads += [total // 2, total - total // 2]
  bias = tensor(params["bias"]) if "bias" in params else None
  return F.conv2d(F.pad(x, pads), kernel, bias, stride)


def torch_dense(x, params):
  return F.linear(x, tensor(params["kernel"]).T, tensor(params["bias"]))


def torch_norm(x, variables, name, path=()):
  """The batch norm of a name in training, its running statistics overwritten; or the identity."""
  scope, stats = variables["params"], variables.get("batch_stats", {})
  for part in path:
    scope, stats = scope[part], stats.get(part, {})
  if name not in scope:
    return x
  mean, var = tensor(stats[name]["mean"]), tensor(stats[name]["var"])
  scale, bias = tensor(scope[name]["scale"]), tensor(scope[name]["bias"])
  y = F.batch_norm(x, mean, var, scale, bias, training=True, momentum=0.1, eps=1e-5)
  stats[name] = {"mean": mean.numpy(), "var": var.numpy()}
  return y


def torch_lenet(variables, x):
  params = variables["params"]
  pool = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
  x = torch_norm(torch_conv(images(x), params["Conv_0"], pads=[2] * 4), variables, "Norm_0")
  x = F.relu(F.max_pool2d(x, **pool))
  for i in (1, 2):
    x = torch_norm(torch_conv(x, params[f"Conv_{i}"], pads=[2] * 4), variables, f"Norm_{i}")
    x = F.avg_pool2d(F.relu(x), **pool, count_include_pad=False)
  x = torch_dense(x.permute(0, 2, 3, 1).flatten(1), params["Dense_0"])
  return torch_dense(x, params["Dense_1"])


def torch_resnet(variables, x, model: ResNet):
  """A ResNet as the papers of ResNet and Fixup draw it."""
  params = variables["params"]

  def scalars(scope):
    """The offsets of a scope in the order of their names, and its multiplier."""
    found = [scope[f"Scalar_{i}"] for i in range(10) if f"Scalar_{i}" in scope]
    offsets = iter([tensor(s["offset"]) for s in found if "offset" in s])
    multiplier = [tensor(s["multiplier"]) for s in found if "multiplier" in s]
    return (lambda: next(offsets, 0.0)), (multiplier[0] if multiplier else 1.0)

  offset, _ = scalars(params)
  x = images(x)
  if model.stem == "imagenet":
    x = torch_conv(x, params["Conv_0"], 2, [3] * 4)
  else:
    x = torch_conv(x, params["Conv_0"])
  x = F.relu(torch_norm(x, variables, "Norm_0") + offset())
  if model.stem == "imagenet":
    x = F.max_pool2d(x, 3, 2, 1)
  index = 0
  for stage, blocks in enumerate(model.blocks):
    for block in range(blocks):
      stride = 2 if stage > 0 and block == 0 else 1
      scope, path = params[f"Block_{index}"], (f"Block_{index}",)
      before, multiplier = scalars(scope)
      norm = functools.partial(torch_norm, variables=variables, path=path)
      strides = [1, stride, 1] if model.bottleneck else [stride, 1]
      biased = y = x + before()
      for i, s in enumerate(strides):
        y = norm(torch_conv(y, scope[f"Conv_{i}"], s), name=f"Norm_{i}")
        if i < len(strides) - 1:
          y = F.relu(y + before()) + before()
      y = y * multiplier + before()
      if "shortcut" in scope:
        x = norm(torch_conv(biased, scope["shortcut"], stride, [0] * 4), name="shortcut_norm")
      elif x.shape != y.shape:
        x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
      x = F.relu(x + y)
      index += 1
  return torch_dense(x.mean((2, 3)) + offset(), params["Dense_0"])


def assert_torchs(model, theirs, image_shape):
  x = normal(4, *image_shape)
  variables = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, *image_shape)), Mode()))
  variables = randomized(variables)
  apply = jax.jit(lambda variables, x: model.apply(variables, x, TRAIN, mutable=["batch_stats"]))
  logits, changed = apply(variables, x)
  expected = theirs(variables, x)  # overwrites the running statistics
  np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4 * expected.abs().max())
  for ours, torchs in zip(
    jax.tree.leaves(changed),
    jax.tree.leaves({k: v for k, v in variables.items() if k == "batch_stats"}),
    strict=True,
  ):
    np.testing.assert_allclose(ours, torchs, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("norm", [NONE, BN], ids=["none", "bn"])
def test_lenet_is_torchs(norm):
  assert_torchs(models.create("lenet", norm, 7, (18, 13, 3)), torch_lenet, (18, 13, 3))


def torch_lenet5(variables, x):
  params, x = variables["params"], images(x)
  for i in (0, 1):
    x = torch_norm(torch_conv(x, params[f"Conv_{i}"], pads=[0] * 4), variables, f"Norm_{i}")
    x = F.max_pool2d(x, 2, ceil_mode=True)
  x = F.relu(torch_dense(x.permute(0, 2, 3, 1).flatten(1), params["Dense_0"]))
  return torch_dense(x, params["Dense_1"])


def test_lenet5_is_torchs():
  assert_torchs(models.create("lenet5", BN, 7, (15, 17, 2)), torch_lenet5, (15, 17, 2))


RESNETS = {
  "projection": ResNet((1, 1), 8, BN, 5),
  "bottleneck, imagenet": ResNet((1, 1), 4, BN, 5, bottleneck=True, stem="imagenet"),
  "fixup bottleneck": ResNet((1, 1), 2, FIXUP, 5, bottleneck=True),
  "fixup, zeros for channels": ResNet((1, 1), 4, FIXUP, 5, projection=False),
}


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_are_torchs(name):
  model = RESNETS[name]
  size = (18, 16, 3) if model.stem == "imagenet" else (8, 7, 3)
  assert_torchs(model, functools.partial(torch_resnet, model=model), size)


# ------------------------------------------------------------------ Fixup

BRANCHES = {
  "basic": ResNet((1, 2), 32, FIXUP, 5),
  "bottleneck": ResNet((1, 2), 32, FIXUP, 5, bottleneck=True),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_fixup_starts_with_silent_branches(name):
  model = BRANCHES[name]
  variables = initial(model, (4, 4, 3))
  noted = calls(model, variables, normal(2, 4, 4, 3), Mode())
  blocks = [(module, x, y) for module, x, y in noted if isinstance(module, Block)]
  assert len(blocks) == 3
  for block, x, y in blocks:
    inner = [call for call in noted if call[0].path[:-1] == block.path]
    branch = [out for module, _, out in inner if isinstance(module, Scalar)][-1]
    np.testing.assert_array_equal(branch, np.zeros_like(branch))
    shortcut = [out for module, _, out in inner if module.name == "shortcut"] or [x]
    np.testing.assert_array_equal(y, np.maximum(shortcut[0], 0))
    assert np.abs(y).max() > 0
  logits = noted[-1][-1]
  np.testing.assert_array_equal(logits, np.zeros((2, 5)))


@pytest.mark.parametrize(("name", "depth"), [("basic", 2), ("bottleneck", 3)])
def test_fixup_scales_hes_deviation_with_the_number_of_branches(name, depth):
  params = initial(BRANCHES[name], (4, 4, 3))["params"]
  scale = 3 ** (-1 / (2 * depth - 2))  # of 3 branches

  def check(kernel, expected):
    he = np.sqrt(2 / np.prod(kernel.shape[:-1]))
    error = 4 / np.sqrt(2 * kernel.size)
    np.testing.assert_allclose(kernel.std(), expected * he, rtol=error, atol=1e-12)

  check(params["Conv_0"]["kernel"], 1.0)
  for i in range(3):
    block = params[f"Block_{i}"]
    for layer in range(depth):
      check(block[f"Conv_{layer}"]["kernel"], scale if layer < depth - 1 else 0.0)
    if "shortcut" in block:
      check(block["shortcut"]["kernel"], 1.0)
  np.testing.assert_array_equal(params["Dense_0"]["kernel"], 0)


@pytest.mark.parametrize(
  ("name", "order"),
  [
    ("basic", "offset Conv_0 offset offset Conv_1 multiplier offset"),
    ("bottleneck", "offset Conv_0 offset offset Conv_1 offset offset Conv_2 multiplier offset"),
  ],
)
def test_fixups_scalars_stand_where_the_paper_puts_them(name, order):
  model = BRANCHES[name]
  variables = initial(model, (4, 4, 3))
  noted = calls(model, variables, normal(2, 4, 4, 3), Mode())

  def names(path):
    found = [module for module, *_ in noted if module.path[:-1] == path and module.name]
    words = {True: "multiplier", False: "offset"}
    return [words[m.multiply] if isinstance(m, Scalar) else m.name for m in found]

  for i in range(3):
    inner = [name for name in names((f"Block_{i}",)) if not name.startswith(("Norm", "shortcut"))]
    assert inner == order.split()
  outer = [name for name in names(()) if not name.startswith(("Norm", "Block"))]
  assert outer == ["Conv_0", "offset", "offset", "Dense_0"]
  for module, *_ in noted:  # a scalar is one number
    if isinstance(module, Scalar):
      scope = functools.reduce(lambda tree, part: tree[part], module.path, variables["params"])
      assert [a.shape for a in jax.tree.leaves(scope)] == [()]
  biases = [path for path, _ in jax.tree.leaves_with_path(variables) if "bias" in str(path[-1])]
  assert len(biases) == 1  # the classifier's


def test_fixup_trains_all_of_its_parameters():
  model = ResNet((1, 1), 4, FIXUP, 3)
  x, labels = normal(6, 6, 6, 1), jnp.array([0, 1, 2, 0, 1, 2])
  start = models.init(model, KEY, (6, 6, 1))["params"]

  def loss(params):
    logits = model.apply({"params": params}, x, TRAIN)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  @jax.jit
  def step(params):
    value, grads = jax.value_and_grad(loss)(params)
    return value, jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)

  params, losses = start, []
  for _ in range(40):
    value, params = step(params)
    losses.append(value)
  np.testing.assert_allclose(losses[0], np.log(3), rtol=1e-6)
  assert losses[-1] < 0.5 * losses[0]
  for (path, before), after in zip(
    jax.tree.leaves_with_path(start), jax.tree.leaves(params), strict=True
  ):
    assert np.abs(after - before).max() > 0, path


# ------------------------------------------------------------------ weight normalization


def vector_jacobian(layer, params, x, dy):
  y, pullback = jax.vjp(lambda p, x: layer.apply({"params": p}, x, TRAIN), params, x)
  return y, pullback(dy)


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_weight_norm_is_torchs(kind):
  if kind == "conv":
    layer, x = Conv(5, (3, 2), WN, padding="VALID"), normal(3, 5, 4, 2)
    theirs = torch.nn.Conv2d(2, 5, (3, 2))
    kernel_in, kernel_out = (3, 2, 0, 1), (2, 3, 1, 0)
    to, back = (lambda a: tensor(a).permute(0, 3, 1, 2)), (lambda a: a.permute(0, 2, 3, 1))
  else:
    layer, x, theirs = Dense(5, WN), normal(3, 4), torch.nn.Linear(4, 5)
    kernel_in = kernel_out = (1, 0)
    to, back = tensor, lambda a: a
  start = layer.init(KEY, x, TRAIN)["params"]
  v = np.asarray(start["kernel"])
  length = np.sqrt((v**2).sum(tuple(range(v.ndim - 1))))
  np.testing.assert_allclose(start["kernel_scale"], length, rtol=1e-6)  # the kernel starts as v

  params = randomized(start)
  v, g = params["kernel"], params["kernel_scale"]
  theirs = torch.nn.utils.parametrizations.weight_norm(theirs, dim=0)
  weights = theirs.parametrizations.weight
  weights.original0.data = tensor(g).reshape(-1, *[1] * (v.ndim - 1))
  weights.original1.data = tensor(v).permute(kernel_in).contiguous()
  theirs.bias.data = tensor(params["bias"])
  expected = theirs(to(x))
  dy = normal(*back(expected).shape, seed=1)
  expected.backward(to(dy))
  y, (grads, _) = vector_jacobian(layer, params, x, dy)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  close(y, back(expected.detach()))
  close(grads["kernel_scale"], weights.original0.grad.flatten())
  close(grads["kernel"], weights.original1.grad.permute(kernel_out))
  close(grads["bias"], theirs.bias.grad)
  # only the direction of v counts
  scaled = layer.apply({"params": {**params, "kernel": 7 * v}}, x, TRAIN)
  close(scaled, y)


@pytest.mark.parametrize("mean_only_bn", [False, True])
def test_data_init_standardises_every_pre_activation(mean_only_bn):
  model = models.create("tiny", create("wn", mean_only_bn=mean_only_bn), 5, (6, 6, 2))
  x = 3 + 2 * normal(16, 6, 6, 2)
  start = models.init(model, KEY, (6, 6, 2))
  variables = models.data_init(model, start, jnp.asarray(x))
  noted = calls(model, variables, x, kinds=(Conv, Dense, Norm))
  linear = [call for call in noted if not isinstance(call[0], Norm)]
  assert len(linear) == 4
  for module, _, out in linear:
    axes = tuple(range(out.ndim - 1))
    np.testing.assert_allclose(out.std(axes), 1, atol=1e-3)
    if isinstance(module, Dense) or not mean_only_bn:
      np.testing.assert_allclose(out.mean(axes), 0, atol=1e-3)
  if mean_only_bn:
    norms = [call for call in noted if isinstance(call[0], Norm)]
    assert len(norms) == 3
    for _, into, out in norms:
      assert np.abs(into.mean((0, 1, 2))).max() > 0.1  # it is the norm that centres
      np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-3)
  # the directions and the statistics stay
  assert jax.tree.structure(variables) == jax.tree.structure(start)
  for (path, before), after in zip(
    jax.tree.leaves_with_path(start), jax.tree.leaves(variables), strict=True
  ):
    moved = path[0].key == "params" and path[-1].key in ("kernel_scale", "bias")
    if not moved:
      np.testing.assert_array_equal(before, after)
    elif path[-2].key.startswith(("Conv", "Dense")):
      assert np.abs(before - after).min() > 0


def test_data_init_leaves_the_scale_of_what_the_batch_leaves_constant():
  layer = Dense(3, WN)
  x = jnp.zeros((4, 2))
  params = layer.init(KEY, x, TRAIN)["params"]
  mode = TRAIN._replace(data_init=True)
  _, changed = layer.apply({"params": params}, x, mode, mutable=["params"])
  jax.tree.map(np.testing.assert_array_equal, changed["params"], params)


# ------------------------------------------------------------------ dropout


def test_dropout_only_drops_in_training():
  model = models.create("cnn", NONE, 3, (8, 8, 1))
  variables, x = models.init(model, KEY, (8, 8, 1)), normal(32, 8, 8, 1)

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def logits(train, dropout, seed):
    rngs = {"dropout": jax.random.key(seed)} if train and dropout else None
    noted = []

    def note(call, args, kwargs, context):
      out = call(*args, **kwargs)
      if isinstance(context.module, nn.Dropout):
        noted.append((args[0], out))
      return out

    with nn.intercept_methods(note):
      return model.apply(variables, x, Mode(train, dropout), rngs=rngs), noted

  still, _ = logits(False, True, 0)
  np.testing.assert_array_equal(still, logits(True, False, 0)[0])
  one, noted = logits(True, True, 0)
  assert np.abs(one - still).max() > 1e-3
  assert np.abs(one - logits(True, True, 1)[0]).max() > 1e-3
  assert len(noted) == 2
  for rate, (before, after) in zip((0.25, 0.5), noted, strict=True):
    before, after = np.asarray(before), np.asarray(after)
    active = before > 0
    kept = active & (after != 0)
    np.testing.assert_allclose(after[kept], before[kept] / (1 - rate), rtol=1e-5)
    # four standard deviations of the share that is kept
    np.testing.assert_allclose(
      kept.sum() / active.sum(), 1 - rate, atol=4 * np.sqrt(rate * (1 - rate) / active.sum())
    )


# ------------------------------------------------------------------ refusals and names

IMAGE = (8, 8, 3)


@pytest.mark.parametrize(
  ("name", "norm", "num_classes", "image_shape", "stem", "message"),
  [
    ("vgg", NONE, 10, IMAGE, "auto", "unknown model 'vgg'; choose one of tiny, lenet"),
    ("resnet10", NONE, 10, IMAGE, "big", "unknown stem 'big'; choose auto, cifar or imagenet"),
    ("tiny", NONE, 10, IMAGE, "cifar", "'tiny' has a single stem; drop the stem 'cifar'"),
    ("resnet20", NONE, 10, IMAGE, "imagenet", "'resnet20' has a single stem"),
    ("tiny", FIXUP, 10, IMAGE, "auto", "which 'tiny' lacks; choose resnet20, resnet10, resnet18"),
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
def test_create_refuses(name, norm, num_classes, image_shape, stem, message):
  with pytest.raises(UserError, match=message):
    models.create(name, norm, num_classes, image_shape, stem)


@pytest.mark.parametrize("name", ["tiny", "lenet", "lenet5", "cnn", "resnet20"])
def test_the_least_images_and_the_default_groups_are_accepted(name):
  known = models.entry(name)
  shape = (known.min_size, known.min_size, 1)
  for norm in ("gn", "bgn"):
    model = models.create(name, create(norm), 4, shape)
    assert model.norm == create(norm, **known.groups)
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
  # and the paths are those of their parameters
  params = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 16, 16, 3)), Mode()))["params"]
  for path, groups in expected.items():
    scope = functools.reduce(lambda tree, part: tree[part], path.split("/"), params)
    assert norm.num_groups(*scope["bias"].shape) == groups
