"""Natural clients of CSV indexes: continents, subcontinents and countries."""

import numpy as np
import pytest
from helpers.csv_files import label, values, write_index

from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError

# Codes of both kinds, among them Namibia's, which can be mistaken for a missing value.
COUNTRIES = ("NA", "ZAF", "us", "BRA", "CN", "DE", "GB", "AU", "FJI", "AQ", "")
CONTINENTS = dict(
  zip(
    COUNTRIES,
    ["Africa"] * 2 + ["Americas"] * 2 + ["Asia"] + ["Europe"] * 2 + ["Oceania"] * 2 + [None] * 2,
    strict=True,
  )
)


def world(folder, count=220, **options):
  """Loads an index with images of all the countries in turn."""
  rows = [f"{i}.png,{label(i)},{COUNTRIES[i % 11]}" for i in range(count)]
  return sources.load(write_index(folder, rows), **options)


def test_continents_are_the_natural_clients(pictures):
  source = world(pictures)
  assert source.name == "csv"
  assert source.class_names == ("cat", "emu", "zebra")
  assert source.client_names == ("Africa", "Americas", "Asia", "Europe", "Oceania")
  train, test = values(source.train), values(source.test)
  region = [CONTINENTS[COUNTRIES[i % 11]] for i in range(220)]
  assert sorted([*train, *test]) == [i for i in range(220) if region[i]]
  assert [source.client_names[k] for k in source.train.clients] == [region[i] for i in train]
  for examples in (source.train, source.test):
    assert [source.class_names[c] for c in examples.labels] == [label(i) for i in values(examples)]
    assert examples.images.shape[1:] == (2, 2, 1)
  assert source.notes == (
    "left out 40 of 220 images, which have no natural client",
    "held out 11 of 220 images (5%) at random for the test",
  )
  owners = partitions.make("natural", source.train.labels, None, 0, clients=source.train.clients)
  assert partitions.sizes(owners).tolist() == np.bincount(source.train.clients).tolist()


def test_no_level_trains_on_what_another_tests_on(pictures):
  """Holds although levels leave out images: of Antarctica, which is a country, or small regions."""
  levels = {
    "continent": world(pictures),
    "subcontinent": world(pictures, region="subcontinent"),
    "country": world(pictures, region="country"),
    "large": world(pictures, min_region_size=40),
  }
  sizes = {}
  for name, source in levels.items():
    sizes[name] = len(source.train.labels) + len(source.test.labels)
    for other in levels.values():
      assert not set(values(source.train)) & set(values(other.test))
  assert sizes == {"continent": 180, "subcontinent": 180, "country": 200, "large": 160}


def test_other_levels_keep_the_test_set(pictures):
  continents = world(pictures)
  finer = world(pictures, region="subcontinent")
  assert len(finer.client_names) == 8
  assert finer.client_names[0] == "Australia and New Zealand"
  countries = world(pictures, region="country")
  # Antarctica is a country without a region; codes of either kind become alpha-2 codes.
  assert countries.client_names == ("AQ", "AU", "BR", "CN", "DE", "FJ", "GB", "NA", "US", "ZA")
  np.testing.assert_array_equal(values(finer.test), values(continents.test))
  np.testing.assert_array_equal(values(finer.train), values(continents.train))
  assert not np.array_equal(values(world(pictures, seed=1).test), values(continents.test))


def test_small_regions_are_left_out_with_a_note(pictures):
  rows = [f"{i}.png,{label(i)},{'FR' if i < 20 else 'JP' if i < 29 else 'TV'}" for i in range(37)]
  name = write_index(pictures, rows)
  source = sources.load(name, region="subcontinent", min_region_size=9)
  assert source.client_names == ("Eastern Asia", "Western Europe")
  assert sorted([*values(source.train), *values(source.test)]) == list(range(29))
  assert source.notes[0] == "left out 8 of 37 images, of regions with fewer than 9: Polynesia"
  assert len(sources.load(name).notes) == 1
  with pytest.raises(UserError, match="no region has 21 images or more; lower the smallest size"):
    sources.load(name, min_region_size=21)


def test_a_process_reads_only_its_images(pictures):
  whole = world(pictures)
  seen = {}

  def select_local(labels, clients):
    seen.update(labels=labels, clients=clients)
    return clients == 2

  part = world(pictures, select_local=select_local)
  np.testing.assert_array_equal(seen["labels"], whole.train.labels)
  np.testing.assert_array_equal(seen["clients"], whole.train.clients)
  asian = whole.train.clients == 2
  np.testing.assert_array_equal(part.train.images[asian], whole.train.images[asian])
  assert not part.train.images[~asian].any()
  np.testing.assert_array_equal(part.test.images, whole.test.images)


def test_labels_are_loaded_without_the_images(tmp_path):
  rows = [f"{i}.png,{label(i)},{COUNTRIES[i % 9]}" for i in range(220)]
  loaded = sources.load_labels(write_index(tmp_path, rows))  # no image exists
  assert len(loaded.labels) == 209
  opened = write_index(tmp_path, ["0.png,cat,train", "1.png,emu,test"], "path,label,split")
  assert sources.load_labels(opened).class_names == ("cat",)  # emu is to be verified
  assert loaded.client_names == ("Africa", "Americas", "Asia", "Europe", "Oceania")
  with pytest.raises(UserError, match="which does not exist"):
    sources.load(write_index(tmp_path, rows))
