"""Contrast, mean images and whitening against NumPy, and their combinations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.data import process_local
from fedjax_norm.data.transforms import scaling, whiten
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.errors import UserError

RNG = np.random.default_rng(0)
# Correlated neighbours, channels of different scales, and more images than a block of the test.
IMAGES = RNG.random((300, 4, 3, 2)).cumsum(1).astype(np.float32) / [4, 8]
BYTES = (IMAGES / IMAGES.max() * 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
  monkeypatch.setattr(process_local, "_BLOCK", 77)


def flat(images):
  images = np.asarray(images, np.float64)
  return images.reshape(len(images), -1)


@given(st.floats(0.1, 3), st.floats(0, 1), st.floats(1e-8, 2), st.integers(0, 99))
@settings(max_examples=20)
def test_contrast_normalization_follows_the_definition(scale, regulariser, floor, seed):
  images = np.random.default_rng(seed).random((3, 4, 5, 2))
  for image, result in zip(
    images, whiten.contrast_normalise(images, scale, regulariser, floor), strict=True
  ):
    divisor = max(floor, np.sqrt(regulariser + image.var()))
    np.testing.assert_allclose(result, scale * (image - image.mean()) / divisor, atol=1e-12)


def test_an_image_without_contrast_stays_finite_and_the_device_agrees_with_the_host():
  images = np.concatenate([IMAGES[:5], np.full((1, 4, 3, 2), 0.3, np.float32)])
  host = whiten.contrast_normalise(images.astype(np.float64))
  device = whiten.contrast_normalise(jnp.asarray(images))
  np.testing.assert_allclose(device, host, atol=1e-5)
  np.testing.assert_allclose(device[-1], 0, atol=1e-5)


@pytest.mark.parametrize("images", [IMAGES, BYTES], ids=["float", "uint8"])
def test_whitened_training_images_are_uncorrelated_with_variance_one(images):
  transform = jax.jit(make_transforms(Preprocess(whiten="zca", zca_epsilon=0.0), images)[2])
  result = flat(transform(jnp.asarray(images)))
  np.testing.assert_allclose(result.mean(0), 0, atol=2e-3)
  np.testing.assert_allclose(np.cov(result.T, bias=True), np.eye(24), atol=5e-3)


def test_after_contrast_normalization_the_mean_direction_has_no_variance():
  transform = jax.jit(make_transforms(Preprocess(whiten="gcn_zca", zca_epsilon=0.01), BYTES)[2])
  result = flat(transform(BYTES))
  covariance = np.cov(flat(whiten.contrast_normalise(BYTES / 255.0)).T, bias=True)
  regularised = covariance + 0.01 * np.trace(covariance) / 24 * np.eye(24)
  expected = covariance @ np.linalg.inv(regularised)  # L / (L + epsilon), between 0 and 1
  np.testing.assert_allclose(np.cov(result.T, bias=True), expected, atol=1e-3)
  np.testing.assert_allclose(result.mean(1), 0, atol=1e-4)


def test_the_whitening_map_is_the_symmetric_root_and_shrinks_with_epsilon():
  x = flat(IMAGES)
  covariance = np.cov(x.T, bias=True)
  prepare = scaling.to_unit
  for epsilon in (0.0, 0.5):
    mean, matrix = whiten.fit_zca(IMAGES, prepare, epsilon)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-3)
    assert np.linalg.eigvalsh(matrix).min() > 0
    regularised = covariance + epsilon * np.trace(covariance) / 24 * np.eye(24)
    root = matrix.astype(np.float64)
    np.testing.assert_allclose(root @ regularised @ root, np.eye(24), atol=1e-4)


@pytest.mark.parametrize("kind", ["none", "gcn"])
def test_the_mean_image_and_the_channel_means_are_subtracted_after_contrast(kind):
  floats = BYTES / 255.0
  if kind == "gcn":
    centred = floats - floats.mean((1, 2, 3), keepdims=True)
    variance = (centred**2).mean((1, 2, 3), keepdims=True)
    floats = centred / np.sqrt(variance + 10 / 255**2)
  for what, axes in (("image", 0), ("channel", (0, 1, 2))):
    transform = make_transforms(Preprocess(whiten=kind, subtract=what), BYTES)[2]
    np.testing.assert_allclose(transform(BYTES), floats - floats.mean(axes), atol=1e-5)
  standardised = make_transforms(Preprocess(True, whiten=kind), BYTES)[2](BYTES)
  axes = (0, 1, 2)
  np.testing.assert_allclose(
    standardised, (floats - floats.mean(axes)) / floats.std(axes), atol=1e-4
  )


def test_contrast_normalization_alone_does_not_standardise_channels():
  result = make_transforms(Preprocess(whiten="gcn"))[2](BYTES)
  np.testing.assert_allclose(result, whiten.contrast_normalise(scaling.to_unit(BYTES)), atol=1e-5)


def test_training_and_test_images_have_the_same_transform():
  transforms = make_transforms(Preprocess(whiten="gcn_zca"), BYTES)
  ids, key = jnp.arange(300), jax.random.key(0)
  expected = transforms[2](BYTES)
  for transform in transforms[:2]:
    np.testing.assert_array_equal(transform(BYTES, ids, 0.0, key, key), expected)


def test_statistics_of_processes_merge_after_contrast():
  config = Preprocess(True, whiten="gcn")
  parts = [scaling.channel_moments(BYTES, np.arange(k, 300, 3), config.prepare) for k in range(3)]
  merged = scaling.channel_statistics(scaling.merge_channel_moments(parts))
  one, other = make_transforms(config, BYTES)[2], make_transforms(config, statistics=merged)[2]
  np.testing.assert_allclose(one(BYTES), other(BYTES), atol=1e-5)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"whiten": "pca"}, "none, gcn, zca, gcn_zca"),
    ({"subtract": "global"}, "none, channel, image"),
    ({"whiten": "zca", "subtract": "image"}, "subtracts the mean image itself"),
    ({"whiten": "zca", "standardise": True}, "drop --standardise or"),
    ({"subtract": "channel", "standardise": True}, "drop --standardise or"),
    ({"whiten": "gcn", "feature_shift": "brightness"}, "brightness"),
  ],
)
def test_contradictory_options_are_refused(options, words):
  with pytest.raises(UserError, match=words):
    Preprocess(**options)


@pytest.mark.parametrize("options", [{"whiten": "zca"}, {"subtract": "image"}])
def test_steps_that_need_all_pixels_are_refused_without_them(options):
  statistics = np.zeros(2, np.float32), np.ones(2, np.float32)
  for images, given_ in ((None, None), (IMAGES, statistics)):
    with pytest.raises(UserError, match="all training images"):
      make_transforms(Preprocess(**options), images, statistics=given_)


def test_large_images_and_singular_whitening_are_refused():
  large = np.zeros((1, 65, 64, 3), np.uint8)
  with pytest.raises(UserError, match="--image_size"):
    whiten.fit_zca(large, scaling.to_unit, 0.1)
  with pytest.raises(UserError, match="above 0"):
    whiten.fit_zca(IMAGES[:10], scaling.to_unit, 0.0)
