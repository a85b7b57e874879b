"""bfloat16 activations with float32 parameters, statistics and sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.collectives import equations

from fedjax_norm import models, norm
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import measure
from fedjax_norm.models.layers import Conv
from fedjax_norm.norm import Mode, Norm
from fedjax_norm.typing import Batch

IMAGES = np.random.default_rng(0).standard_normal((6, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(6, dtype=np.int32) % 4


def half(x):
  return jnp.asarray(x, jnp.bfloat16)


def loss_and_gradients(model, variables, images):
  """Returns ((loss, new statistics), gradients) of a training step."""

  def loss(params):
    logits, changed = model.apply(
      {**variables, "params": params}, images, Mode(train=True), mutable=["batch_stats"]
    )
    batch = Batch(images, LABELS, np.ones(6, np.float32))
    return measure("classification", logits, batch).loss / 6, changed

  return jax.value_and_grad(loss, has_aux=True)(variables["params"])


@pytest.mark.parametrize(
  ("name", "spec"),
  [
    ("lenet", norm.create("bn")),
    ("lenet", norm.create("wn", mean_only_bn=True)),
    ("resnet20", norm.create("fixup")),
  ],
  ids=["bn", "wn", "fixup"],
)
def test_a_step_equals_float32_within_the_precision_of_bfloat16(name, spec):
  model = models.create(name, spec, 4, (8, 8, 3))
  variables = models.init(model, jax.random.key(0), (8, 8, 3))
  step = jax.jit(lambda variables, images: loss_and_gradients(model, variables, images))
  (loss, stats), gradients = step(variables, IMAGES)
  (loss16, stats16), gradients16 = step(variables, half(IMAGES))
  for ours in jax.tree.leaves((loss16, stats16, gradients16)):
    assert ours.dtype == jnp.float32
  assert any(
    np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (gradients, gradients16)), strict=True)
  )  # the dtype has an effect
  np.testing.assert_allclose(loss16, loss, rtol=0.02)

  def cosine(a, b):
    a, b = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(t)]) for t in (a, b))
    return a @ b / jnp.sqrt((a @ a) * (b @ b))

  assert cosine(gradients, gradients16) > 0.99
  if stats:
    assert cosine(stats, stats16) > 0.999


def test_every_convolution_and_product_is_in_bfloat16():
  model = models.create("lenet", norm.create("gn", group_size=2), 4, (8, 8, 3))
  variables = models.init(model, jax.random.key(0), (8, 8, 3))
  traced = jax.make_jaxpr(lambda v, x: loss_and_gradients(model, v, x)[1])(variables, half(IMAGES))
  products = [
    {str(factor.aval.dtype) for factor in equation.invars}
    for equation in equations(traced.jaxpr)
    if equation.primitive.name in ("conv_general_dilated", "dot_general")
  ]
  assert len(products) >= 12  # three for each of five layers, without the gradient of the images
  assert all(dtypes == {"bfloat16"} for dtypes in products)


def test_statistics_are_float32():
  # The mean is 100 standard deviations: sums in bfloat16 would lose the deviations.
  x = half(100 + IMAGES)
  layer = Norm(norm.create("bn", decay=0.0))
  variables = layer.init(jax.random.key(0), x, Mode())
  y, changed = layer.apply(variables, x, Mode(train=True), mutable=["batch_stats"])
  exact = np.asarray(x, np.float64)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(changed["batch_stats"]["mean"], exact.mean((0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(changed["batch_stats"]["var"], exact.var((0, 1, 2), ddof=1), rtol=1e-5)
  expected = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
  np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=0.01, atol=0.01)


def test_the_gradient_of_a_bias_is_a_float32_sum():
  x = half(np.ones((4, 16, 16, 1)))
  layer = Conv(1, (1, 1), norm.create("none"))
  params = layer.init(jax.random.key(0), x, Mode())["params"]
  gradient = jax.grad(lambda p: layer.apply({"params": p}, x, Mode()).astype(jnp.float32).sum())
  # In bfloat16, adding 1 to 256 has no effect.
  assert gradient(params)["bias"].item() == 4 * 16 * 16


def test_the_images_have_the_compute_dtype():
  transforms = make_transforms(Preprocess(compute_dtype="bfloat16"), IMAGES)
  key = jax.random.key(0)
  args = (IMAGES, np.arange(6), np.float32(0), key, key)
  training, plain, evaluation = transforms
  single = make_transforms(Preprocess(), IMAGES)[2](IMAGES)
  assert single.dtype == jnp.float32
  for images in (training(*args), plain(*args), evaluation(IMAGES)):
    np.testing.assert_array_equal(images, single.astype(jnp.bfloat16), strict=True)
  with pytest.raises(UserError, match=r"unknown compute_dtype 'half'.*float32, bfloat16"):
    Preprocess(compute_dtype="half")
