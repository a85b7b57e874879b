"""Runs of models with random weights, and the same layers in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import linen as nn

from fedjax_norm.models.layers import Conv, Dense
from fedjax_norm.models.resnet import Block, Scalar
from fedjax_norm.norm import Mode, Norm, create

KEY = jax.random.key(0, impl="rbg")  # rbg compiles faster
TRAIN = Mode(train=True, dropout=False)
BN, NONE, FIXUP, WN = create("bn"), create("none"), create("fixup"), create("wn")


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(a) -> torch.Tensor:
  return torch.tensor(np.asarray(a))


def randomized(tree, seed=0):
  """Draws values for a tree of arrays or shapes; no parameter gets its initial value."""
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
  """Returns (module, input, output) of every call of a layer of these classes, in order."""
  modules = []

  def run(variables, x):
    arrays = []

    def record(call, args, kwargs, context):
      out = call(*args, **kwargs)
      if isinstance(context.module, kinds) and context.method_name == "__call__":
        modules.append(context.module)
        arrays.append((args[0], out))
      return out

    with nn.intercept_methods(record):
      model.apply(variables, x, mode, mutable=["batch_stats"])
    return arrays

  arrays = jax.jit(run)(variables, x)
  return [(module, *pair) for module, pair in zip(modules, arrays, strict=True)]


def images(x) -> torch.Tensor:
  return tensor(x).permute(0, 3, 1, 2)


def torch_conv(x, params, stride=1, pads=None):
  kernel = tensor(params["kernel"]).permute(3, 2, 0, 1)
  if pads is None:  # 'SAME': an odd element of padding goes to the end
    pads = []
    for size, taps in zip(x.shape[:1:-1], kernel.shape[:1:-1], strict=True):
      total = max((-(-size // stride) - 1) * stride + taps - size, 0)
      pads += [total // 2, total - total // 2]
  bias = tensor(params["bias"]) if "bias" in params else None
  return F.conv2d(F.pad(x, pads), kernel, bias, stride)


def torch_dense(x, params):
  return F.linear(x, tensor(params["kernel"]).T, tensor(params["bias"]))


def torch_norm(x, variables, name, path=()):
  """Applies batch norm if it exists, and overwrites its running statistics."""
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


def assert_equals_torch(model, theirs, image_shape):
  x = normal(4, *image_shape)
  variables = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, *image_shape)), Mode()))
  variables = randomized(variables)
  apply = jax.jit(lambda variables, x: model.apply(variables, x, TRAIN, mutable=["batch_stats"]))
  logits, changed = apply(variables, x)
  expected = theirs(variables, x)  # overwrites the running statistics
  np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4 * expected.abs().max())
  for ours, expected in zip(
    jax.tree.leaves(changed),
    jax.tree.leaves({k: v for k, v in variables.items() if k == "batch_stats"}),
    strict=True,
  ):
    np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-4)
