"""Indexes of images that the tests write."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.data.sources import csv_index
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError

# Codes of both kinds; Namibia, which a careless reader takes for a missing value.
COUNTRIES = ("NA", "ZAF", "us", "BRA", "CN", "DE", "GB", "AU", "FJI", "AQ", "")
CONTINENTS = dict(
  zip(
    COUNTRIES,
    ["Africa"] * 2 + ["Americas"] * 2 + ["Asia"] + ["Europe"] * 2 + ["Oceania"] * 2 + [None] * 2,
    strict=True,
  )
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """A folder of 220 images of 2x2 pixels; the value of image i is i."""
  folder = tmp_path_factory.mktemp("pictures")
  for i in range(220):
    Image.fromarray(np.full((2, 2), i, np.uint8)).save(folder / f"{i}.png")
  return folder


def label(i):
  return ("cat", "emu", "zebra")[i % 3]


def write(folder, rows, header="path,label,country", name="index.csv"):
  text = "\n".join([header, *rows]) + "\n"
  (folder / name).write_text(text, encoding="utf-8")
  return f"csv:{folder / name}"


def world(folder, count=220, **options):
  """Images of all the countries in turn."""
  rows = [f"{i}.png,{label(i)},{COUNTRIES[i % 11]}" for i in range(count)]
  return sources.load(write(folder, rows), **options)


def values(examples):
  return examples.images[:, 0, 0, 0].astype(int)


def named(source):
  return [source.client_names[k] for k in source.train.clients]


def test_continents_are_the_natural_clients(pictures):
  source = world(pictures)
  assert source.name == "csv"
  assert source.class_names == ("cat", "emu", "zebra")
  assert source.client_names == ("Africa", "Americas", "Asia", "Europe", "Oceania")
  train, test = values(source.train), values(source.test)
  both = sorted([*train, *test])
  assert both == [i for i in range(220) if CONTINENTS[COUNTRIES[i % 11]]]
  assert named(source) == [CONTINENTS[COUNTRIES[i % 11]] for i in train]
  for examples in (source.train, source.test):
    assert [source.class_names[c] for c in examples.labels] == [label(i) for i in values(examples)]
    assert examples.images.shape[1:] == (2, 2, 1)
  assert source.notes == (
    "left out 40 of 220 images, which have no natural client",
    "held out 11 of 220 images (5%) at random for the test",
  )
  owners = partitions.make("natural", source.train.labels, None, 0, clients=source.train.clients)
  assert partitions.sizes(owners).tolist() == np.bincount(source.train.clients).tolist()


def test_a_twentieth_of_every_class_is_tested_on(pictures):
  source = sources.load(write(pictures, [f"{i}.png,{label(i)}" for i in range(220)], "path,label"))
  train, test = values(source.train), values(source.test)
  assert sorted([*train, *test]) == list(range(220))
  assert len(test) == round(0.05 * 220)
  assert np.ptp(np.bincount(source.test.labels)) <= 1  # 73 or 74 images each


def test_no_level_trains_on_what_another_tests_on(pictures):
  """Whatever the levels leave out: Antarctica, which is a country, and small regions."""
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


def test_a_class_without_a_training_image_is_not_tested(tmp_path):
  rows = [
    "0.png,cat,NA,train",
    "1.png,emu,AU,train",
    "2.png,cat,NA,test",
    "3.png,emu,NA,test",
    "4.png,cat,AQ,test",
  ]
  where = write(tmp_path, rows, "path,label,country,split").removeprefix("csv:")
  listing = csv_index.scan(where, 0, min_region_size=2)
  assert [file.label for file in listing.train] == ["cat"]
  assert [(file.label, file.client) for file in listing.test] == [("cat", "Africa")]
  assert listing.notes[-1] == "left out 1 test images of classes without training images: emu"
  with pytest.raises(UserError, match="all test images are of regions that are left out"):
    csv_index.scan(write(tmp_path, rows[:2] + rows[4:], "path,label,country,split")[4:], 0)


def test_other_levels_keep_the_test_set(pictures):
  continents = world(pictures)
  finer = world(pictures, region="subcontinent")
  assert len(finer.client_names) == 8
  assert finer.client_names[0] == "Australia and New Zealand"
  countries = world(pictures, region="country")
  # Antarctica is a country without a region, and has a code of one kind whatever is written.
  assert countries.client_names == ("AQ", "AU", "BR", "CN", "DE", "FJ", "GB", "NA", "US", "ZA")
  np.testing.assert_array_equal(values(finer.test), values(continents.test))
  np.testing.assert_array_equal(values(finer.train), values(continents.train))
  assert not np.array_equal(values(world(pictures, seed=1).test), values(continents.test))


def test_small_regions_are_left_out_and_told(pictures):
  rows = [f"{i}.png,{label(i)},{'FR' if i < 20 else 'JP' if i < 29 else 'TV'}" for i in range(37)]
  name = write(pictures, rows)
  source = sources.load(name, region="subcontinent", min_region_size=9)
  assert source.client_names == ("Eastern Asia", "Western Europe")
  assert sorted([*values(source.train), *values(source.test)]) == list(range(29))
  assert source.notes[0] == "left out 8 of 37 images, of regions with fewer than 9: Polynesia"
  assert len(sources.load(name).notes) == 1
  with pytest.raises(UserError, match="no region has 21 images or more; lower the smallest size"):
    sources.load(name, min_region_size=21)


def test_regions_and_splits_of_ones_own(pictures):
  header = "Split, CLASS ,file,when,region"
  rows = [
    f"train,{label(0)},0.png,x,north",
    f"Train,{label(1)},{pictures / '1.png'},x,south",
    f"val,{label(1)},4.png,x,south",
    f"test,{label(0)},3.png,x,north",
    "",
    f'train,{label(1)},7.png,"x, y",north',
    f"train,{label(1)},10.png,x,",
  ]
  name = write(pictures, rows, header)
  source = sources.load(name)
  assert values(source.train).tolist() == [0, 1, 7]
  assert values(source.test).tolist() == [3]  # where there is a test set, val is none
  without = write(pictures, [row for row in rows if "test" not in row], header)
  assert values(sources.load(without).test).tolist() == [4]
  name = write(pictures, rows, header)
  assert source.client_names == ("north", "south")
  assert source.train.clients.tolist() == [0, 1, 0]
  assert sources.load(name, min_region_size=2).client_names == ("north",)
  with pytest.raises(UserError, match="no column country"):
    sources.load(name, region="continent")


@pytest.mark.parametrize("column", ["client", "Client_ID", "user", "user_id", "site", "site_id"])
def test_clients_may_be_named_as_such_and_go_before_countries(pictures, column):
  rows = [f"{i}.png,{label(i)},FR,{'ann' if i < 9 else 'bob'}" for i in range(24)]
  name = write(pictures, rows, f"path,label,country,{column}")
  assert sources.load_labels(name).client_names == ("ann", "bob")
  assert sources.load_labels(name, region="country").client_names == ("FR",)


@pytest.mark.parametrize(
  ("columns", "used", "others"),
  [
    (["region", "user_id"], "user_id", "region"),
    (["Site", "client_id"], "client_id", "site"),
    (["user", "client", "region"], "client", "user, region"),
  ],
)
def test_of_several_columns_the_first_in_order_names_the_clients(pictures, columns, used, others):
  rows = [
    f"{i}.png,{label(i)},FR," + ",".join(f"{column}{i % 2}" for column in columns)
    for i in range(24)
  ]
  name = write(pictures, rows, f"path,label,country,{','.join(columns)}")
  known = sources.load_labels(name)
  assert known.client_names == (f"{used}0", f"{used}1")
  assert known.notes[0] == f"the column {used} names the clients; not used: {others}"
  assert len(sources.load_labels(name, region="country").notes) == 1


@pytest.mark.parametrize("split", ["test", "val"])
def test_test_images_without_a_client_are_shared(pictures, split):
  rows = [f"{i}.png,{label(i)},{'ann' if i < 4 else 'bob'},train" for i in range(7)]
  rows += ["7.png,cat,,train", f"8.png,cat,,{split}", f"9.png,emu,ann,{split}"]
  rows += [f"10.png,emu,bob,{split}"]
  name = write(pictures, rows, "path,label,client,split")
  source = sources.load(name)
  assert values(source.train).tolist() == list(range(7))
  assert values(source.test).tolist() == [8, 9, 10]
  assert source.client_names == ("ann", "bob")
  assert source.notes == ("left out 1 of 11 images, which have no natural client",)
  # Those of clients that are left out are still left out.
  assert values(sources.load(name, min_region_size=5).test).tolist() == [8, 9]
  shared = [row for row in rows if "," + split not in row or ",," in row]
  name = write(pictures, shared, "path,label,client,split")
  assert values(sources.load(name).test).tolist() == [8]


def test_splits_have_the_usual_names(pictures):
  splits = ["Training", "VALID", "validation", "Testing"]
  rows = [f"{i}.png,cat,{splits[i // 3]}" for i in range(12)]
  source = sources.load(write(pictures, rows, "path,label,split"))
  assert values(source.train).tolist() == [0, 1, 2]
  assert values(source.test).tolist() == [9, 10, 11]
  assert source.notes == ("the test set is test; the 6 images of val are not used",)


def test_texts_that_look_the_same_are_one_class_and_one_client(pictures):
  forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
  rows = [f"{i}.png,{forms[i % 2]},{forms[i % 3 % 2]}" for i in range(12)]
  known = sources.load_labels(write(pictures, rows, "path,label,user"))
  assert known.class_names == known.client_names == (forms[0],)


def test_an_index_without_places_has_no_natural_clients(pictures):
  name = write(pictures, [f"{i}.png,{label(i)}" for i in range(12)], "image,label")
  source = sources.load(name)
  assert source.client_names is None
  assert source.train.clients is None
  assert len(source.train.labels) == 11
  with pytest.raises(UserError, match="names no regions"):
    sources.load(name, min_region_size=1)


def test_a_process_reads_its_own_images_alone(pictures):
  whole = world(pictures)
  told = {}

  def select_local(labels, clients):
    told.update(labels=labels, clients=clients)
    return clients == 2

  own = world(pictures, select_local=select_local)
  np.testing.assert_array_equal(told["labels"], whole.train.labels)
  np.testing.assert_array_equal(told["clients"], whole.train.clients)
  asian = whole.train.clients == 2
  np.testing.assert_array_equal(own.train.images[asian], whole.train.images[asian])
  assert not own.train.images[~asian].any()
  np.testing.assert_array_equal(own.test.images, whole.test.images)


def test_images_are_resized_and_colour_wins_over_gray(tmp_path):
  Image.fromarray(np.full((4, 6), 9, np.uint8)).save(tmp_path / "gray.png")
  Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(tmp_path / "colour.png")
  rows = ["gray.png,a,train", "colour.png,a,test"]
  name = write(tmp_path, rows, "path,label,split")
  assert sources.load(name, image_size=4).train.images.shape == (1, 4, 4, 3)
  with pytest.raises(UserError, match="give an image size"):
    sources.load(name)


def test_labels_are_known_without_the_images(tmp_path):
  rows = [f"{i}.png,{label(i)},{COUNTRIES[i % 9]}" for i in range(220)]
  known = sources.load_labels(write(tmp_path, rows))  # no image is there
  assert len(known.labels) == 209
  opened = write(tmp_path, ["0.png,cat,train", "1.png,emu,test"], "path,label,split")
  assert sources.load_labels(opened).class_names == ("cat",)  # emu is to be verified
  assert known.client_names == ("Africa", "Americas", "Asia", "Europe", "Oceania")
  with pytest.raises(UserError, match="which does not exist"):
    sources.load(write(tmp_path, rows))


def test_labels_of_other_sources_are_those_of_their_examples():
  name = "synthetic:classes=3,train=31,test=7,size=5,clients=4"
  known, source = sources.load_labels(name), sources.load(name)
  np.testing.assert_array_equal(known.labels, source.train.labels)
  np.testing.assert_array_equal(known.clients, source.train.clients)
  assert known.class_names == source.class_names


GOOD = [f"{i}.png,{label(i)},US" for i in range(6)]


@pytest.mark.parametrize(
  ("rows", "header", "words"),
  [
    (GOOD, "picture,label,country", "no column for the path"),
    (GOOD, "path,kind,country", "no column for the label"),
    (GOOD, "path,image,label", "several columns for the path"),
    (["1.png,cat,US,north"], "path,label,country", "line 2 has 4 fields"),
    (["1.png,cat"], "path,label,country", "line 2 has 2 fields"),
    ([*GOOD, ",cat,US"], "path,label,country", "line 8 has no path"),
    ([*GOOD, "1.png,,US"], "path,label,country", "line 8 has no label"),
    ([*GOOD, "8.png,cat,Utopia"], "path,label,country", "line 8 has the country 'Utopia'"),
    ([*GOOD, '1.png,"cat,US'], "path,label,country", "cannot be read as CSV"),
    (GOOD, "path,label,split", "line 2 has the split 'US'"),
    ([f"{i}.png,cat,train" for i in range(3)], "path,label,split", "no image with the split test"),
    (["1.png,cat,test"], "path,label,split", "no image with the split train"),
    (["1.png,cat,train", "2.png,emu,test"], "path,label,split", "'emu' has test images"),
    ([], "path,label", "names no image"),
    (["1.png,cat", "2.png,emu"], "path,label", "one image per class"),
    ([*GOOD, "absent.png,cat,US"], "path,label,country", "absent.png, which does not exist"),
    ([*GOOD, "index.csv,cat,US"], "path,label,country", "is not an image"),
    (["1.png,cat,", "2.png,cat,"], "path,label,country", "no image has a region; fill in"),
    ([*GOOD, "./x/../3.png,emu,DE"], "path,label,country", "lines 5 and 8 both name the image"),
  ],
)
def test_bad_indexes_are_refused(pictures, rows, header, words):
  with pytest.raises(UserError, match=words):
    sources.load(write(pictures, rows, header))


def test_what_is_no_index_is_refused(tmp_path):
  with pytest.raises(UserError, match="no file"):
    sources.load(f"csv:{tmp_path / 'absent.csv'}")
  (tmp_path / "empty.csv").write_text("")
  with pytest.raises(UserError, match="no column for the path"):
    sources.load(f"csv:{tmp_path / 'empty.csv'}")
  (tmp_path / "binary.csv").write_bytes(b"path,label\n\xff\xfe\x00,a\n")
  with pytest.raises(UserError, match="cannot be read as CSV"):
    sources.load(f"csv:{tmp_path / 'binary.csv'}")
  with pytest.raises(UserError, match="at least 0"):
    sources.load(f"csv:{tmp_path / 'binary.csv'}", min_region_size=-1)
  with pytest.raises(UserError, match="no region 'planet'"):
    sources.load(write(tmp_path, GOOD), region="planet")
  for options in ({"region": "country"}, {"min_region_size": 3}):
    with pytest.raises(UserError, match="Only a csv: index"):
      sources.load("digits", **options)
