"""The deviation of the clients' gradients from that of their joint batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from fedjax_norm.evaluation.gradient_deviation import make_gradient_deviation
from fedjax_norm.local_training.config import LocalConfig
from fedjax_norm.norm import Norm, create
from fedjax_norm.typing import Batch


class Net(nn.Module):
  """A linear layer, a norm and logits."""

  norm: object

  @nn.compact
  def __call__(self, images, mode):
    x = nn.Dense(2, use_bias=False)(images)
    return Norm(self.norm)(x, mode).mean((1, 2))


def world(spec):
  """A model, and the batches of three clients that see other values; the last batch has padding."""
  rng = np.random.default_rng(0)
  images = rng.normal(np.arange(3).reshape(3, 1, 1, 1, 1), 1.0, (3, 4, 1, 2, 3)).astype(np.float32)
  labels = np.array([[0, 0, 0, 1], [1, 1, 0, 1], [1, 0, 1, 1]], np.int32)
  mask = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], np.float32)
  kernel = jnp.asarray(rng.normal(0, 1, (3, 2)), jnp.float32)
  params = {
    "Dense_0": {"kernel": kernel},
    "Norm_0": {"scale": jnp.array([1.5, 0.5]), "bias": jnp.array([0.1, -0.2])},
  }
  stats = {"batch_stats": {"Norm_0": {"mean": jnp.array([0.3, 0.1]), "var": jnp.array([2.0, 1.0])}}}
  variables = {"params": params, **(stats if spec.name != "gn" else {})}
  return Net(spec), variables, Batch(images, labels, mask)


def of(spec):
  model, variables, batches = world(spec)
  deviation = jax.jit(make_gradient_deviation(model, LocalConfig()))
  return {layer: float(v) for layer, v in deviation(variables, batches, jnp.int32(0)).items()}


def loss(params, images, labels):
  """The sum of the losses with batch normalization, in NumPy and float64."""
  kernel, scale, bias = params
  x = images @ kernel
  x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * scale + bias
  logits = x.mean((1, 2))
  return (np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]).sum()


def gradient(params, images, labels):
  """Central differences."""
  result = []
  for i, one in enumerate(params):
    grad = np.zeros_like(one)
    for index in np.ndindex(one.shape):
      values = []
      for step in (1e-5, -1e-5):
        moved = [p.copy() for p in params]
        moved[i][index] += step
        values.append(loss(moved, images, labels))
      grad[index] = (values[0] - values[1]) / 2e-5
    result.append(grad.ravel())
  return result


def test_the_deviation_of_bn_is_that_of_finite_differences():
  _, variables, batches = world(create("bn"))
  layers = variables["params"]
  params = [layers["Dense_0"]["kernel"], layers["Norm_0"]["scale"], layers["Norm_0"]["bias"]]
  params = [np.asarray(p, np.float64) for p in params]
  images, labels, mask = (np.asarray(part) for part in batches)
  clients = [
    gradient(params, images[k][mask[k] > 0].astype(np.float64), labels[k][mask[k] > 0])
    for k in range(3)
  ]
  joint = gradient(params, images[mask > 0].astype(np.float64), labels[mask > 0])
  mean = [sum(parts) for parts in zip(*clients, strict=True)]
  expected = {}
  for layer, chosen in (("Dense_0", slice(0, 1)), ("Norm_0", slice(1, 3))):
    a, b = (np.concatenate(g[chosen]) for g in (mean, joint))
    expected[layer] = np.linalg.norm(a - b) / np.linalg.norm(b)
  assert of(create("bn")) == pytest.approx(expected, rel=1e-3)
  assert min(expected.values()) > 0.1


@pytest.mark.parametrize(
  "spec", [create("gn", groups=2), create("bn").frozen()], ids=["gn", "frozen"]
)
def test_there_is_none_without_statistics_of_batches(spec):
  assert max(of(spec).values()) < 1e-6
