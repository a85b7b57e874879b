"""Scaling and augmentation against NumPy, and independence of examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.data.transforms import augment, scaling
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.errors import UserError

IMAGES = np.random.default_rng(0).random((64, 6, 5, 3), np.float32) + 0.1


def test_uint8_is_divided_by_255_and_floats_do_not_change():
  np.testing.assert_allclose(
    scaling.to_float(jnp.asarray([0, 51, 255], jnp.uint8)), [0, 0.2, 1], rtol=1e-6
  )
  halves = scaling.to_float(jnp.asarray([0.5, 2.0], jnp.float16))
  assert halves.dtype == jnp.float32
  np.testing.assert_array_equal(halves, [0.5, 2.0])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_statistics_standardise_to_zero_mean_and_unit_deviation(dtype):
  rng = np.random.default_rng(1)
  images = rng.random((1500, 4, 4, 3)) * [0.5, 1.0, 0.2]  # more than one block
  images = (images * 255).astype(np.uint8) if dtype == np.uint8 else images.astype(np.float32)
  mean, std = scaling.channel_statistics(scaling.channel_moments(images))
  reference = images / 255.0 if dtype == np.uint8 else images.astype(np.float64)
  np.testing.assert_allclose(mean, reference.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(std, reference.std((0, 1, 2)), rtol=1e-5)
  result = np.asarray(scaling.standardise(scaling.to_float(jnp.asarray(images)), mean, std))
  np.testing.assert_allclose(result.mean((0, 1, 2)), 0, atol=1e-4)
  np.testing.assert_allclose(result.std((0, 1, 2)), 1, atol=1e-4)


def test_a_constant_channel_stays_finite():
  constant = np.full((3, 2, 2, 1), 0.25, np.float32)
  mean, std = scaling.channel_statistics(scaling.channel_moments(constant))
  assert mean == np.float32(0.25)
  assert std == np.float32(0.001)


@pytest.mark.parametrize("shape", [(0, 2, 2, 1), (4, 2, 2)])
def test_statistics_of_no_images_are_refused(shape):
  with pytest.raises(UserError, match="Channel statistics"):
    scaling.channel_moments(np.zeros(shape, np.float32))
  with pytest.raises(UserError, match="not 0 of shape"):
    scaling.channel_moments(IMAGES, np.zeros(0, int))


@given(
  owner=st.lists(st.integers(0, 3), min_size=2, max_size=64),
  seed=st.integers(0, 99),
  dtype=st.sampled_from([np.uint8, np.float32]),
  offset=st.sampled_from([0, 100]),
)
@settings(max_examples=50)
def test_the_moments_of_parts_merge_to_those_of_the_whole(owner, seed, dtype, offset):
  owner = np.asarray(owner)
  rng = np.random.default_rng(seed)
  images = rng.uniform(offset, offset + 99, (len(owner), 3, 2, 2)) * (
    1 + owner[:, None, None, None]
  )
  images = np.minimum(images, 255).astype(dtype)
  parts = [scaling.channel_moments(images, np.flatnonzero(owner == k)) for k in np.unique(owner)]
  merged = scaling.merge_channel_moments(parts)
  for value in merged:
    assert value.dtype == np.float64
  scaled = images.astype(np.float64) / (255 if dtype == np.uint8 else 1)
  assert merged.count == len(owner) * 6
  np.testing.assert_allclose(merged.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(merged.m2, scaled.var((0, 1, 2)) * merged.count, rtol=1e-9)
  whole = scaling.channel_statistics(scaling.channel_moments(images))
  np.testing.assert_allclose(scaling.channel_statistics(merged), whole, rtol=2e-7)


def test_only_the_selected_images_count():
  images = IMAGES.copy()
  ids = np.asarray([2, 3, 50])
  chosen = scaling.channel_moments(images[ids])
  images[np.setdiff1d(np.arange(64), ids)] = np.nan
  for value, expected in zip(scaling.channel_moments(images, ids), chosen, strict=True):
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("config", [Preprocess(), Preprocess(feature_shift="noise")])
def test_transforms_are_the_same_from_images_and_from_merged_statistics(config):
  ids, key = jnp.arange(64), jax.random.key(0)
  parts = [scaling.channel_moments(IMAGES, np.arange(k, 64, 3)) for k in range(3)]
  statistics = scaling.channel_statistics(scaling.merge_channel_moments(parts))
  from_images = make_transforms(config, IMAGES)
  from_statistics = make_transforms(config, statistics=statistics)
  for one, other in zip(from_images[:2], from_statistics[:2], strict=True):
    results = [transform(IMAGES, ids, 0.5, key, key) for transform in (one, other)]
    np.testing.assert_allclose(*results, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(
    from_images[2](IMAGES), from_statistics[2](IMAGES), rtol=1e-6, atol=1e-6
  )
  result = from_statistics[2](IMAGES)
  np.testing.assert_allclose(result.mean((0, 1, 2)), 0, atol=1e-4)
  np.testing.assert_allclose(result.std((0, 1, 2)), 1, atol=1e-4)


def test_statistics_are_not_needed_without_standardising():
  transforms = make_transforms(Preprocess(standardise=False))
  np.testing.assert_array_equal(transforms[2](IMAGES), IMAGES)
  with pytest.raises(UserError, match="the training images or their statistics"):
    make_transforms(Preprocess())


def windows(image, pad, flip, padding="zeros"):
  """Yields every possible result of a random crop, with its offsets and whether it is mirrored."""
  mode = {"zeros": "constant", "reflect": "reflect"}[padding]
  padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode)
  height, width, _ = image.shape
  for top in range(2 * pad + 1):
    for left in range(2 * pad + 1):
      crop = padded[top : top + height, left : left + width]
      yield (top, left, False), crop
      if flip:
        yield (top, left, True), crop[:, ::-1]


@pytest.mark.parametrize(
  ("pad", "flip", "padding"),
  [(2, True, "zeros"), (1, False, "zeros"), (0, True, "zeros"), (1, True, "reflect")],
)
def test_each_result_is_one_window_and_all_offsets_occur(pad, flip, padding):
  results = np.asarray(
    jax.jit(augment.crop_flip, static_argnums=(2, 3, 4))(
      jax.random.key(3), IMAGES, pad, flip, padding
    )
  )
  seen = []
  for image, result in zip(IMAGES, results, strict=True):
    matches = [
      change for change, crop in windows(image, pad, flip, padding) if np.array_equal(crop, result)
    ]
    assert len(matches) == 1
    seen += matches
  tops, lefts, flips = zip(*seen, strict=True)
  assert set(tops) == set(lefts) == set(range(2 * pad + 1))
  assert set(flips) == ({False, True} if flip else {False})


def test_no_crop_and_no_flip_is_the_identity():
  np.testing.assert_array_equal(augment.crop_flip(jax.random.key(0), IMAGES, 0, False), IMAGES)


def test_training_images_are_padded_as_the_option_says():
  transform = make_transforms(
    Preprocess(standardise=False, augment="crop", crop_padding="reflect")
  )[0]
  ids, key = jnp.arange(64), jax.random.key(0)
  expected = augment.crop_flip(key, IMAGES, flip=False, padding="reflect")
  np.testing.assert_array_equal(transform(IMAGES, ids, 0.0, key, key), expected)
  assert (np.asarray(expected) > 0).all()


def test_the_crop_of_an_example_does_not_depend_on_others():
  key = jax.random.key(5)
  whole = augment.crop_flip(key, IMAGES)
  np.testing.assert_array_equal(augment.crop_flip(key, IMAGES[:7]), whole[:7])
  others = IMAGES.copy()
  others[1:] = 0
  np.testing.assert_array_equal(augment.crop_flip(key, others)[0], whole[0])


def test_crops_differ_by_key_and_work_under_vmap():
  keys = jax.random.split(jax.random.key(0), 2)
  batches = jnp.stack([IMAGES, IMAGES])
  both = jax.vmap(augment.crop_flip)(keys, batches)
  np.testing.assert_array_equal(both[1], augment.crop_flip(keys[1], IMAGES))
  assert not np.array_equal(both[0], both[1])


def test_noise_belongs_to_the_example_and_scales_with_the_strength():
  key = jax.random.key(1)
  ids = jnp.arange(64) + 10
  once = augment.feature_shift(IMAGES, "noise", 0.5, ids, key)
  order = np.random.default_rng(2).permutation(64)
  again = augment.feature_shift(IMAGES[order], "noise", 0.5, ids[order], key)
  np.testing.assert_array_equal(again, once[order])
  noise = np.asarray(once - IMAGES) / 0.5
  assert abs(noise.mean()) < 0.05
  assert abs(noise.std() - 1) < 0.05
  assert not np.allclose(noise[0], noise[1])
  twice = augment.feature_shift(IMAGES, "noise", 1.0, ids, key)
  np.testing.assert_allclose(twice - IMAGES, 2 * (once - IMAGES), atol=1e-5)


def test_brightness_adds_the_strength_and_zero_does_nothing():
  ids = jnp.arange(64)
  key = jax.random.key(1)
  brighter = augment.feature_shift(IMAGES, "brightness", -0.25, ids, key)
  np.testing.assert_allclose(brighter, IMAGES - 0.25, rtol=1e-6)
  for kind in augment.SHIFT_KINDS:
    np.testing.assert_array_equal(augment.feature_shift(IMAGES, kind, 0.0, ids, key), IMAGES)


def test_shifts_can_be_mapped_over_clients():
  strengths = jnp.asarray(augment.client_strengths("noise", 3, 0.3))
  batches = jnp.stack([IMAGES[:4]] * 3)
  ids = jnp.arange(12).reshape(3, 4)
  key = jax.random.key(0)
  mapped = jax.jit(jax.vmap(lambda x, s, i: augment.feature_shift(x, "noise", s, i, key)))(
    batches, strengths, ids
  )
  for k in range(3):
    alone = augment.feature_shift(batches[k], "noise", strengths[k], ids[k], key)
    np.testing.assert_allclose(mapped[k], alone, atol=1e-6)


def test_strengths_are_evenly_spaced():
  np.testing.assert_allclose(augment.client_strengths("noise", 5, 1.0), [0, 0.25, 0.5, 0.75, 1])
  np.testing.assert_allclose(augment.client_strengths("brightness", 3, 0.2), [-0.2, 0, 0.2])
  np.testing.assert_array_equal(augment.client_strengths("brightness", 1, 0.2), [0])


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"feature_shift": "blur"}, "noise, brightness"),
    ({"feature_scale": -1.0}, "feature_scale"),
    ({"feature_scale": float("nan")}, "feature_scale"),
    ({"zca_epsilon": -1.0, "whiten": "zca"}, "zca_epsilon is -1; it must be at least 0"),
  ],
)
def test_bad_options_are_refused(options, words):
  with pytest.raises(UserError, match=words):
    Preprocess(**options)
