"""The losses and accuracies of the objectives, against PyTorch and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import linen as nn
from helpers.settings import plain

from fedjax_norm.errors import UserError
from fedjax_norm.local_training import make_gradient, measure
from fedjax_norm.models.blocks import sow_loss
from fedjax_norm.norm import Mode, NormSpec, create
from fedjax_norm.objectives import IGNORED
from fedjax_norm.typing import Batch

RNG = np.random.default_rng(0)
PLAIN = create("none")
MASK = np.array([1, 1, 0, 1], np.float32)
REAL = MASK > 0


def measured(objective, outputs, targets):
  """Returns the metrics and the gradient with respect to the outputs."""
  batch = Batch(None, jnp.asarray(targets), jnp.asarray(MASK))

  def loss(outputs):
    metrics = measure(objective, outputs, batch)
    return metrics.loss, metrics

  gradient, metrics = jax.grad(loss, has_aux=True)(jnp.asarray(outputs))
  return metrics, gradient


def test_regression_is_half_the_squared_distance():
  outputs, targets = RNG.standard_normal((2, 4, 3)).astype(np.float32)
  outputs[2] = np.nan  # padding
  metrics, gradient = measured("regression", outputs, targets)
  theirs = torch.tensor(outputs[REAL], requires_grad=True)
  loss = F.mse_loss(theirs, torch.tensor(targets[REAL]), reduction="sum") / 2
  loss.backward()
  np.testing.assert_allclose(metrics.loss, loss.item(), rtol=1e-6)
  np.testing.assert_allclose(gradient[REAL], theirs.grad, rtol=1e-6)
  assert (metrics.correct, metrics.examples) == (0, 3)


def test_segmentation_is_the_mean_over_the_pixels_that_are_not_ignored():
  outputs = RNG.standard_normal((4, 5, 6, 3)).astype(np.float32)
  targets = RNG.integers(0, 3, (4, 5, 6)).astype(np.uint8)
  targets[RNG.random(targets.shape) < 0.3] = IGNORED
  targets[3] = IGNORED  # an image without any counted pixel
  outputs[2] = np.nan
  metrics, gradient = measured("segmentation", outputs, targets)
  theirs = torch.tensor(outputs[:2], requires_grad=True)
  # PyTorch averages over all pixels of a batch, so it gets the images one at a time.
  losses = [
    F.cross_entropy(
      one.permute(2, 0, 1)[None], torch.tensor(labels[None].astype(int)), ignore_index=IGNORED
    )
    for one, labels in zip(theirs, targets, strict=False)
  ]
  sum(losses).backward()
  np.testing.assert_allclose(metrics.loss, sum(losses).item(), rtol=1e-6)
  np.testing.assert_allclose(gradient[:2], theirs.grad, rtol=1e-5, atol=1e-8)
  assert not np.any(gradient[3])
  shares = [
    (logits.argmax(-1) == labels)[labels != IGNORED].mean()
    for logits, labels in zip(outputs[:2], targets, strict=False)
  ]
  np.testing.assert_allclose(metrics.correct, sum(shares), rtol=1e-6)
  assert metrics.examples == 3


class Auxiliary(nn.Module):
  """A dense layer whose output is trained twice, once as an auxiliary head of weight 0.25."""

  norm: NormSpec = PLAIN

  @nn.compact
  def __call__(self, x, mode: Mode):
    outputs = nn.Dense(2)(x.reshape(len(x), -1))
    sow_loss(self, outputs, 0.25, mode)
    return outputs


@pytest.mark.parametrize("accumulate", [1, 2])
def test_auxiliary_heads_have_the_objective_of_the_model(accumulate):
  """The gradients of the parts of a batch add up to that of the whole batch."""
  model, images = Auxiliary(), RNG.standard_normal((4, 2, 2, 1)).astype(np.float32)
  targets = RNG.standard_normal((4, 2)).astype(np.float32)
  params = model.init(jax.random.key(0), images, Mode())["params"]
  config = plain(batch_size=4, accumulate=accumulate, objective="regression")
  batch = Batch(*map(jnp.asarray, (images, targets, MASK)))
  gradient, _, metrics = jax.jit(make_gradient(model, config))(
    params, {}, batch, jnp.float32(0), jax.random.key(0)
  )
  error = images.reshape(4, -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"] - targets
  error = error * MASK[:, None]
  np.testing.assert_allclose(metrics.loss, np.square(error).sum() / 2, rtol=1e-5)
  kernel = 1.25 * images.reshape(4, -1).T @ error / 3
  np.testing.assert_allclose(gradient["Dense_0"]["kernel"], kernel, rtol=1e-4, atol=1e-6)


def test_an_unknown_objective_is_refused():
  with pytest.raises(UserError, match="choose one of classification, regression, segmentation"):
    plain(objective="ranking")
