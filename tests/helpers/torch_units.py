"""PyTorch layers with the parameters of our layers, to build reference networks from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import linen as nn

from fedjax_norm.norm import Mode

KEY = jax.random.key(0, impl="rbg")  # rbg compiles faster


@functools.cache
def shapes(model: nn.Module, image_shape: tuple[int, int, int]):
  """Returns the shapes of a model's variables, without compiling it."""
  return jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, *image_shape)), Mode()))


def count(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
  """Returns the number of parameters of a model."""
  return sum(a.size for a in jax.tree.leaves(shapes(model, image_shape)["params"]))


def randomized(tree):
  """Draws values for a tree of shapes: He initialization of kernels, others near their defaults."""
  rng = np.random.default_rng(0)

  def draw(path, a):
    values = rng.standard_normal(a.shape, np.float32)
    match path[-1].key:
      case "kernel":
        return values * np.float32(np.sqrt(2 / np.prod(a.shape[:-1])))
      case "scale" | "var":
        return np.float32(1) + np.float32(0.1) * np.abs(values)
    return np.float32(0.1) * values

  return jax.tree.map_with_path(draw, tree)


def images(*shape: int) -> np.ndarray:
  return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def channels_first(x: np.ndarray) -> torch.Tensor:
  return torch.tensor(x).permute(0, 3, 1, 2)


def flat(x: torch.Tensor) -> torch.Tensor:
  """Flattens images in the order of our dense layers."""
  return x.permute(0, 2, 3, 1).flatten(1)


def dense(x: torch.Tensor, params) -> torch.Tensor:
  return F.linear(x, torch.tensor(params["kernel"]).T, torch.tensor(params["bias"]))


def unit(x: torch.Tensor, params, stride: int = 1, padding: int | tuple[int, int] | None = None):
  """A convolution, batch norm in training if it exists, ReLU; padding None keeps the image size."""
  kernel = torch.tensor(params["Conv_0"]["kernel"]).permute(3, 2, 0, 1)
  bias = params["Conv_0"].get("bias")
  if padding is None:
    padding = (kernel.shape[2] // 2, kernel.shape[3] // 2)
  x = F.conv2d(x, kernel, None if bias is None else torch.tensor(bias), stride, padding)
  if "Norm_0" in params:
    scale, bias = (torch.tensor(params["Norm_0"][key]) for key in ("scale", "bias"))
    x = F.batch_norm(x, None, None, scale, bias, training=True, eps=1e-5)
  return F.relu(x)


def assert_close(ours, theirs: torch.Tensor) -> None:
  theirs = theirs.numpy()
  np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())


def module_calls(model: nn.Module, image_shape: tuple[int, int, int], mode: Mode, *kinds: type):
  """Returns (calls of modules of these classes as (module, input shape, output shape), changes)."""
  calls = []

  def record(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(context.module, kinds) and context.method_name == "__call__":
      calls.append((context.module, args[0].shape, getattr(out, "shape", None)))
    return out

  def run(variables, x):
    mutable = ["batch_stats", "losses"]
    return model.apply(variables, x, mode, mutable=mutable, rngs={"dropout": KEY})

  variables = shapes(model, image_shape)
  with nn.intercept_methods(record):
    _, changed = jax.eval_shape(run, variables, jnp.zeros((2, *image_shape)))
  return calls, changed
