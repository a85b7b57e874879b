"""Synthetic identities, and folders with test identities that differ from the training ones."""

import numpy as np
import pytest
from helpers.small_data import flat, write

from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation import verification


def test_identities_are_disjoint_and_follow_seed_and_options():
  source = sources.load("identities")
  assert len(source.class_names) == len(source.test_names) == 40
  assert not set(source.class_names) & set(source.test_names)
  assert source.train.images.shape == source.test.images.shape == (800, 16, 16, 1)
  np.testing.assert_array_equal(np.bincount(source.train.labels), np.full(40, 20))
  np.testing.assert_array_equal(np.bincount(source.test.labels), np.full(40, 20))
  for name, seed, same in (("identities:", 0, True), ("identities", 1, False)):
    other = sources.load(name, seed=seed)
    assert np.array_equal(other.test.images, source.test.images) == same
  odd = sources.load("identities:identities=5,images=3,size=9,channels=2")
  assert (len(odd.class_names), odd.test.images.shape) == (3, (6, 9, 9, 2))
  assert sources.load("identities:identities=4", image_size=7).train.images.shape[1:3] == (7, 7)
  # An identity does not depend on the number of identities.
  fewer = sources.load("identities:identities=8")
  np.testing.assert_array_equal(fewer.train.images, source.train.images[: 4 * 20])


def test_images_of_an_identity_differ_by_deformation_and_noise():
  still = sources.load("identities:identities=4,images=3,deformation=0,noise=0").train
  for label in (0, 1):
    assert np.ptp(still.images[still.labels == label], axis=0).max() == 0
  assert np.abs(still.images[0] - still.images[3]).mean() > 0.05
  # The more images are deformed, the worse raw pixels distinguish identities.
  shares = []
  for deformation in (0.3, 1, 2):
    test = sources.load(f"identities:images=8,deformation={deformation}").test
    pairs = verification.make_pairs(test.labels)
    pixels = test.images.reshape(len(test.labels), -1)
    distances = verification.cosine_distances(pixels - pixels.mean(1, keepdims=True), pairs)
    shares.append(verification.summarize(np.asarray(distances), pairs)["top1"])
  assert shares[0] > 0.85 > 0.7 > shares[1] > shares[2]


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ("colour=3", "no option 'colour=3'"),
    ("identities=3", "at least 4"),
    ("images=1", "at least 2"),
    ("images=2.5", "whole number"),
    ("size=0", "at least 1"),
    ("channels=0", "at least 1"),
    ("noise=nan", "noise is .nan.; give a finite number"),
    ("deformation=-1", "deformation must be at least 0"),
    ("noise=0,noise=1", "twice"),
  ],
)
def test_bad_options_are_refused(options, words):
  with pytest.raises(UserError, match=words):
    sources.load(f"identities:{options}")


def test_a_folder_may_have_other_test_identities(tmp_path):
  for part, name, count in (("train", "ann", 2), ("train", "bo", 1), ("test", "ann", 1)):
    for i in range(count):
      write(tmp_path / part / name / f"{i}.png", flat(40))
  for i in range(3):
    write(tmp_path / "test" / "cy" / f"{i}.png", flat(200 + i))
  with pytest.raises(UserError, match=r"'cy' has test images but no training .* verification"):
    sources.load(f"folder:{tmp_path}")
  source = sources.load(f"folder:{tmp_path}", open_set=True)
  assert source.class_names == ("ann", "bo")
  assert source.test_names == ("ann", "cy")
  assert source.train.labels.tolist() == [0, 0, 1]
  assert source.test.labels.tolist() == [0, 1, 1, 1]
  assert source.test.images[1:, 0, 0, 0].tolist() == [200, 201, 202]
