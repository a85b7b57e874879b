"""Sources by name, digits and synthetic data, options, and real data sets if they are prepared."""

import time
from pathlib import Path

import numpy as np
import pytest
from helpers.small_data import check, same

from fedjax_norm.data.examples import first_classes, sample
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.data.sources.config import DataConfig, from_config, share
from fedjax_norm.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "tfds"


def test_digits_have_a_fixed_stratified_split():
  source = sources.load("digits")
  check(source)
  assert source.train.images.shape == (1437, 8, 8, 1)
  assert source.test.images.shape == (360, 8, 8, 1)
  assert source.train.images.max() == 1
  assert source.train.images.min() == 0
  assert same(source, sources.load("digits", seed=7))
  per_class = np.bincount(source.test.labels)
  assert per_class.min() >= 34
  assert per_class.max() <= 38
  everything = np.concatenate([source.train.images, source.test.images]).reshape(1797, -1)
  assert len(np.unique(everything, axis=0)) == 1797


def test_any_source_can_be_resized():
  source = sources.load("digits", image_size=12)
  check(source)
  assert source.train.images.shape == (1437, 12, 12, 1)
  small = sources.load("digits")
  np.testing.assert_allclose(
    source.train.images.mean((1, 2, 3)), small.train.images.mean((1, 2, 3)), atol=0.06
  )


def test_synthetic_data_are_seeded_and_learnable():
  source = sources.load("synthetic")
  check(source)
  assert source.train.images.shape == (2000, 8, 8, 1)
  assert same(source, sources.load("synthetic", seed=0))
  assert not same(source, sources.load("synthetic", seed=1))
  assert source.train.clients is None
  images = source.train.images.reshape(2000, -1)
  centres = np.stack([images[source.train.labels == c].mean(0) for c in range(10)])
  distances = ((source.test.images.reshape(500, 1, -1) - centres) ** 2).sum(-1)
  assert (distances.argmin(1) == source.test.labels).mean() > 0.95


def test_synthetic_data_follow_the_options():
  source = sources.load("synthetic:classes=3,train=31,test=7,size=5,channels=2,noise=0,clients=4")
  check(source)
  assert source.train.images.shape == (31, 5, 5, 2)
  assert source.test.images.shape == (7, 5, 5, 2)
  assert len(source.class_names) == 3
  assert sorted(np.bincount(source.train.clients)) == [7, 8, 8, 8]
  assert len(source.client_names) == 4
  assert len(np.unique(source.train.images.reshape(31, -1), axis=0)) == 3


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ("colour=3", "no option 'colour=3'"),
    ("classes", "key=value"),
    ("classes=2,classes=3", "twice"),
    ("classes=two", "whole number"),
    ("classes=1", "at least 2"),
    ("train=5", "at least 10"),
    ("test=0", "at least 1"),
    ("size=0", "at least 1"),
    ("channels=0", "at least 1"),
    ("noise=-1", "noise"),
    ("noise=nan", "noise"),
    ("clients=2001", "clients"),
    ("clients=-1", "clients"),
  ],
)
def test_bad_synthetic_options_are_refused(options, words):
  with pytest.raises(UserError, match=words):
    sources.load(f"synthetic:{options}")


@pytest.mark.parametrize("name", ["cifra10", "npz", "folder", "npz:", "", "../x"])
def test_the_error_of_an_unknown_name_lists_the_sources(tmp_path, name):
  for data_dir in (None, str(tmp_path)):
    with pytest.raises(UserError, match=r"digits, synthetic.*npz:PATH, folder:PATH"):
      sources.load(name, data_dir)


def test_a_folder_without_its_kind_is_told_how_to_be_given(tmp_path):
  with pytest.raises(UserError, match=f"folders of images, give --data=folder:{tmp_path};"):
    sources.load(str(tmp_path))


def test_bad_settings_are_refused(tmp_path):
  with pytest.raises(UserError, match="no folder"):
    sources.load("mnist", str(tmp_path / "absent"))
  with pytest.raises(UserError, match=r"experiments\.fetch --dataset=tiny_imagenet"):
    sources.load("tiny_imagenet", str(tmp_path))
  with pytest.raises(UserError, match="seed"):
    sources.load("digits", seed=-1)
  with pytest.raises(UserError, match="image size"):
    sources.load("digits", image_size=0)


def test_the_data_of_the_options():
  data = "synthetic:classes=2,train=30,test=6,size=4"
  config = DataConfig(data=data, image_size=5, train_share=0.5)
  whole = from_config(config)
  assert same(whole, sources.load(data, image_size=5))
  source = share(whole, config, seed=3)
  assert len(source.train.labels) == 15
  assert same(source, whole._replace(train=sample(whole.train, 0.5, 3)))
  regression = from_config(DataConfig(data=data), "regression")
  assert regression.train.targets is not None
  with pytest.raises(UserError, match="--train_share is for one process"):
    from_config(config, select_local=lambda labels, clients: np.arange(3))
  config = DataConfig(data="digits", first_classes=3)
  assert same(from_config(config), first_classes(sources.load("digits"), 3))
  with pytest.raises(UserError, match="--first_classes is for one process"):
    from_config(config, select_local=lambda labels, clients: np.arange(3))


@pytest.mark.parametrize("data", ["digits", "synthetic:classes=3", "npz:some.npz", "csv:some.csv"])
def test_a_folder_of_prepared_sets_is_refused_if_it_does_nothing(data):
  with pytest.raises(UserError, match="--data_dir does nothing here"):
    DataConfig(data=data, data_dir="prepared")
  DataConfig(data="cifar10", data_dir="prepared")


@pytest.mark.parametrize(
  ("name", "train", "test", "first_class"),
  [
    ("mnist", (60000, 28, 28, 1), (10000, 28, 28, 1), "0"),
    ("cifar10", (50000, 32, 32, 3), (10000, 32, 32, 3), "airplane"),
  ],
)
@pytest.mark.long
def test_real_prepared_sets_load_in_seconds(name, train, test, first_class):
  if not (SHARED / name).is_dir():
    pytest.skip(f"{name} is not prepared in ../shared/tfds")
  start = time.perf_counter()
  source = sources.load(name, str(SHARED))
  assert time.perf_counter() - start < 60  # a few seconds on a quiet machine
  check(source)
  assert source.train.images.shape == train
  assert source.test.images.shape == test
  assert source.train.images.dtype == np.uint8
  assert source.class_names[0] == first_class
  counts = np.bincount(source.test.labels)
  assert counts.sum() == 10000
  assert counts.min() > 800
