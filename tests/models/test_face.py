"""The face network: its layers, its embeddings, and the gradients of the centre loss by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.settings import plain

from fedjax_norm import models, norm
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import make_gradient, step_bytes
from fedjax_norm.models.face import Face, PReLU, center_loss
from fedjax_norm.models.flops import layer_macs
from fedjax_norm.norm import Mode
from fedjax_norm.typing import Batch

LAMBDA, ALPHA = 0.25, 0.5
LABELS = np.array([0, 1, 1, 2, 1, 0], np.int32)
MASK = np.array([1, 1, 1, 1, 0, 0], np.float32)


def by_hand(x, labels, mask, centers):
  """Returns (eq. 2, eq. 3 of each embedding, eq. 4 times alpha of each centre; Wen et al. 2016)."""
  loss, dx, dc = 0.0, np.zeros_like(x), np.zeros_like(centers)
  for i in np.flatnonzero(mask):
    difference = x[i] - centers[labels[i]]
    loss += LAMBDA / 2 * (difference @ difference)
    dx[i] = LAMBDA * difference
  for j in range(len(centers)):
    members = [i for i in np.flatnonzero(mask) if labels[i] == j]
    total = sum((centers[j] - x[i] for i in members), np.zeros(x.shape[1]))
    dc[j] = ALPHA * total / (1 + len(members))
  return loss, dx, dc


@pytest.mark.parametrize("mask", [MASK, None], ids=["padded", "whole"])
def test_the_centre_loss_equals_the_formulas(mask):
  rng = np.random.default_rng(0)
  x, centers = rng.normal(size=(6, 3)), rng.normal(size=(4, 3))

  def loss(x, centers):
    return center_loss(x, LABELS, mask, centers, LAMBDA, ALPHA)

  arguments = x.astype(np.float32), centers.astype(np.float32)
  value, (dx, dc) = jax.value_and_grad(loss, (0, 1))(*arguments)
  real = np.ones(6) if mask is None else mask
  expected, expected_dx, expected_dc = by_hand(x, LABELS, real, centers)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(dx, expected_dx, rtol=1e-5, atol=1e-6)
  # make_gradient divides by the number of examples, which the centre loss multiplies by.
  np.testing.assert_allclose(dc / real.sum(), expected_dc, rtol=1e-5, atol=1e-6)
  assert np.abs(expected_dc[:3]).min() > 0
  assert not dc[3].any()


@pytest.fixture(scope="module")
def small():
  """Returns (a model with three convolutions, its variables, a batch)."""
  model = Face(
    norm.create("none"),
    3,
    blocks=(0,),
    channels=(4,),
    embedding=5,
    center_weight=LAMBDA,
    center_rate=ALPHA,
  )
  images = np.random.default_rng(1).normal(size=(6, 4, 4, 1)).astype(np.float32)
  return model, models.init(model, jax.random.key(0), (4, 4, 1)), Batch(images, LABELS, MASK)


def test_the_gradient_of_a_step_is_that_of_the_paper(small):
  """``make_gradient`` adds the paper's gradients to those of the mean cross-entropy.

  For a batch in two parts, the gradient of the centres is the weighted mean of the parts'.
  """
  model, variables, batch = small

  def embed(params):
    return model.apply({"params": params}, batch.images, Mode(), method="embed")

  def mean_cross_entropy(params):
    logits = model.apply({"params": params}, batch.images, Mode())
    label_logits = jax.nn.log_softmax(logits)[jnp.arange(6), batch.labels]
    return -(label_logits * batch.mask).sum() / batch.mask.sum()

  @jax.jit
  def steps(params):
    gradients = [make_gradient(model, plain(batch_size=6, accumulate=parts)) for parts in (1, 2)]
    arguments = params, {}, batch, jnp.int32(0), jax.random.key(1)
    return [gradient(*arguments)[0] for gradient in gradients]

  @jax.jit
  def expect(params, dx):
    centre_gradient = jax.vjp(embed, params)[1](dx)[0]
    return jax.tree.map(jnp.add, jax.grad(mean_cross_entropy)(params), centre_gradient)

  params = variables["params"]
  x, centers = np.asarray(jax.jit(embed)(params)), np.asarray(params["centers"])
  _, dx, dc = by_hand(x, LABELS, MASK, centers)
  expected = expect(params, (dx / MASK.sum()).astype(np.float32))
  first, second = (
    by_hand(x[part], LABELS[part], MASK[part], centers)[2] for part in (slice(3), slice(3, 6))
  )
  for gradient, centre in zip(steps(params), (dc, (3 * first + second) / 4), strict=True):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
      gradient,
      {**expected, "centers": centre},
    )


def test_the_classifier_is_a_dense_layer_of_the_embedding_and_labels_change_no_output(small):
  model, variables, batch = small
  assert set(variables) == {"params"}  # losses are not part of the variables

  @jax.jit
  def passes(variables):
    modes = [Mode(train=True, mask=batch.mask, labels=labels) for labels in (None, LABELS)]
    return (
      model.apply(variables, batch.images, Mode(), method="embed"),
      model.apply(variables, batch.images, Mode()),
      [model.apply(variables, batch.images, mode, mutable=["losses"]) for mode in modes],
    )

  x, logits, ((without_labels, no_losses), (with_labels, losses)) = passes(variables)
  dense = variables["params"]["classifier"]
  np.testing.assert_allclose(logits, x @ dense["kernel"] + dense["bias"], rtol=1e-5)
  assert np.asarray(x).min() < 0  # the embedding has no activation
  for others in (without_labels, with_labels):
    np.testing.assert_allclose(others, logits, rtol=1e-5)
  assert (bool(no_losses), bool(losses)) == (False, True)
  images = jax.ShapeDtypeStruct((4, 4, 1), jnp.float32)
  assert step_bytes(model, plain(batch_size=6), images) > 0  # traces a step without labels


def test_prelu_equals_torch():
  x = np.random.default_rng(2).normal(size=(3, 2, 2, 4)).astype(np.float32)
  slopes = np.array([0.25, -0.5, 2, 0], np.float32)
  ours = PReLU().apply({"params": {"slope": slopes}}, x)
  theirs = torch.nn.functional.prelu(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(slopes))
  np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), rtol=1e-6)
  assert PReLU().init(jax.random.key(0), x)["params"]["slope"].tolist() == [0.25] * 4


def test_the_network_has_the_layers_of_the_released_code():
  """Checks the channels of the 27 convolutions, and the number of parameters that follows."""
  model = models.create("face", norm.create("none"), 10575, (112, 96, 3))
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 112, 96, 3)), Mode()))
  convs = [(3, 32), (32, 64)]
  for width, units, after in ((64, 1, 128), (128, 2, 256), (256, 5, 512), (512, 3, None)):
    convs += [(width, width)] * (2 * units) + ([(width, after)] if after else [])
  assert len(convs) == 27
  trunk = shapes["params"]["trunk"]
  kernels = [trunk[f"Conv_{i}"]["kernel"].shape for i in range(27)]
  assert kernels == [(3, 3, *channels) for channels in convs]
  # Residual units have no biases, and each convolution is followed by the slopes of a PReLU.
  units = {2, 3, 5, 6, 7, 8, *range(10, 20), *range(21, 27)}
  assert {i for i in range(27) if "bias" not in trunk[f"Conv_{i}"]} == units
  expected = sum(9 * i * o + o + (0 if k in units else o) for k, (i, o) in enumerate(convs))
  expected += 7 * 6 * 512 * 512 + 512 + 512 * 10575 + 10575 + 10575 * 512
  assert sum(a.size for a in jax.tree.leaves(shapes)) == expected
  # There is a pool after the second convolution and after each that changes the channels.
  macs = layer_macs(model, (112, 96, 3))
  assert macs["trunk/Conv_1"] == 112 * 96 * 9 * 32 * 64
  assert macs["trunk/Conv_2"] == 56 * 48 * 9 * 64 * 64
  assert macs["trunk/Conv_26"] == 7 * 6 * 9 * 512 * 512


def test_a_norm_follows_every_convolution():
  for name in ("bn", "wn"):
    model = models.create("face", norm.create(name), 4, (16, 16, 1))
    assert len(models.norm_modules(model, (16, 16, 1))) == (0 if name == "wn" else 27)
  with pytest.raises(UserError, match="at least 16x16"):
    models.create("face", norm.create("bn"), 4, (15, 16, 1))
  with pytest.raises(UserError, match="Fixup needs residual branches"):
    models.create("face", norm.create("fixup"), 4, (16, 16, 1))
