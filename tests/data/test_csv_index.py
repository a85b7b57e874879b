"""CSV indexes of images: columns, splits, clients by name, and errors."""

import unicodedata

import numpy as np
import pytest
from helpers.csv_files import label, values, write_index
from PIL import Image

from fedjax_norm.data.sources import csv_index
from fedjax_norm.data.sources import registry as sources
from fedjax_norm.errors import UserError


def test_a_twentieth_of_every_class_is_the_test_set(pictures):
  rows = [f"{i}.png,{label(i)}" for i in range(220)]
  source = sources.load(write_index(pictures, rows, "path,label"))
  train, test = values(source.train), values(source.test)
  assert sorted([*train, *test]) == list(range(220))
  assert len(test) == round(0.05 * 220)
  assert np.ptp(np.bincount(source.test.labels)) <= 1  # 73 or 74 images each


def test_a_class_without_a_training_image_is_not_tested(tmp_path):
  rows = [
    "0.png,cat,NA,train",
    "1.png,emu,AU,train",
    "2.png,cat,NA,test",
    "3.png,emu,NA,test",
    "4.png,cat,AQ,test",
  ]
  where = write_index(tmp_path, rows, "path,label,country,split").removeprefix("csv:")
  listing = csv_index.scan(where, 0, min_region_size=2)
  assert [file.label for file in listing.train] == ["cat"]
  assert [(file.label, file.client) for file in listing.test] == [("cat", "Africa")]
  assert listing.notes[-1] == "left out 1 test images of classes without training images: emu"
  with pytest.raises(UserError, match="all test images are of regions that are left out"):
    csv_index.scan(write_index(tmp_path, rows[:2] + rows[4:], "path,label,country,split")[4:], 0)


def test_columns_name_regions_and_splits(pictures):
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
  name = write_index(pictures, rows, header)
  source = sources.load(name)
  assert values(source.train).tolist() == [0, 1, 7]
  assert values(source.test).tolist() == [3]  # val is not used if there is a test set
  without = write_index(pictures, [row for row in rows if "test" not in row], header)
  assert values(sources.load(without).test).tolist() == [4]
  name = write_index(pictures, rows, header)
  assert source.client_names == ("north", "south")
  assert source.train.clients.tolist() == [0, 1, 0]
  assert sources.load(name, min_region_size=2).client_names == ("north",)
  with pytest.raises(UserError, match="no column country"):
    sources.load(name, region="continent")


@pytest.mark.parametrize("column", ["client", "Client_ID", "user", "user_id", "site", "site_id"])
def test_a_column_of_clients_takes_precedence_over_countries(pictures, column):
  rows = [f"{i}.png,{label(i)},FR,{'ann' if i < 9 else 'bob'}" for i in range(24)]
  name = write_index(pictures, rows, f"path,label,country,{column}")
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
def test_the_first_of_several_columns_names_the_clients(pictures, columns, used, others):
  rows = [
    f"{i}.png,{label(i)},FR," + ",".join(f"{column}{i % 2}" for column in columns)
    for i in range(24)
  ]
  name = write_index(pictures, rows, f"path,label,country,{','.join(columns)}")
  loaded = sources.load_labels(name)
  assert loaded.client_names == (f"{used}0", f"{used}1")
  assert loaded.notes[0] == f"the column {used} names the clients; not used: {others}"
  assert len(sources.load_labels(name, region="country").notes) == 1


@pytest.mark.parametrize("split", ["test", "val"])
def test_test_images_without_a_client_are_shared(pictures, split):
  rows = [f"{i}.png,{label(i)},{'ann' if i < 4 else 'bob'},train" for i in range(7)]
  rows += ["7.png,cat,,train", f"8.png,cat,,{split}", f"9.png,emu,ann,{split}"]
  rows += [f"10.png,emu,bob,{split}"]
  name = write_index(pictures, rows, "path,label,client,split")
  source = sources.load(name)
  assert values(source.train).tolist() == list(range(7))
  assert values(source.test).tolist() == [8, 9, 10]
  assert source.client_names == ("ann", "bob")
  assert source.notes == ("left out 1 of 11 images, which have no natural client",)
  # The test images of clients that are left out are left out too.
  assert values(sources.load(name, min_region_size=5).test).tolist() == [8, 9]
  shared = [row for row in rows if "," + split not in row or ",," in row]
  name = write_index(pictures, shared, "path,label,client,split")
  assert values(sources.load(name).test).tolist() == [8]


def test_splits_may_have_any_usual_name(pictures):
  splits = ["Training", "VALID", "validation", "Testing"]
  rows = [f"{i}.png,cat,{splits[i // 3]}" for i in range(12)]
  source = sources.load(write_index(pictures, rows, "path,label,split"))
  assert values(source.train).tolist() == [0, 1, 2]
  assert values(source.test).tolist() == [9, 10, 11]
  assert source.notes == ("the test set is test; the 6 images of val are not used",)


def test_texts_that_look_the_same_are_equal(pictures):
  forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
  rows = [f"{i}.png,{forms[i % 2]},{forms[i % 3 % 2]}" for i in range(12)]
  loaded = sources.load_labels(write_index(pictures, rows, "path,label,user"))
  assert loaded.class_names == loaded.client_names == (forms[0],)


def test_an_index_without_regions_has_no_natural_clients(pictures):
  name = write_index(pictures, [f"{i}.png,{label(i)}" for i in range(12)], "image,label")
  source = sources.load(name)
  assert source.client_names is None
  assert source.train.clients is None
  assert len(source.train.labels) == 11
  with pytest.raises(UserError, match="names no regions"):
    sources.load(name, min_region_size=1)


def test_images_are_resized_and_are_rgb_if_one_has_colour(tmp_path):
  Image.fromarray(np.full((4, 6), 9, np.uint8)).save(tmp_path / "gray.png")
  Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(tmp_path / "colour.png")
  rows = ["gray.png,a,train", "colour.png,a,test"]
  name = write_index(tmp_path, rows, "path,label,split")
  assert sources.load(name, image_size=4).train.images.shape == (1, 4, 4, 3)
  with pytest.raises(UserError, match="give an image size"):
    sources.load(name)


def test_labels_of_other_sources_are_those_of_their_examples():
  name = "synthetic:classes=3,train=31,test=7,size=5,clients=4"
  loaded, source = sources.load_labels(name), sources.load(name)
  np.testing.assert_array_equal(loaded.labels, source.train.labels)
  np.testing.assert_array_equal(loaded.clients, source.train.clients)
  assert loaded.class_names == source.class_names


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
    (["1.png,cat", "2.png,emu"], "path,label", "too few images"),
    ([*GOOD, "absent.png,cat,US"], "path,label,country", "absent.png, which does not exist"),
    ([*GOOD, "index.csv,cat,US"], "path,label,country", "is not an image"),
    (["1.png,cat,", "2.png,cat,"], "path,label,country", "no image has a region; fill in"),
    ([*GOOD, "./x/../3.png,emu,DE"], "path,label,country", "lines 5 and 8 both name the image"),
  ],
)
def test_bad_indexes_are_refused(pictures, rows, header, words):
  with pytest.raises(UserError, match=words):
    sources.load(write_index(pictures, rows, header))


def test_files_that_are_not_indexes_are_refused(tmp_path):
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
    sources.load(write_index(tmp_path, GOOD), region="planet")
  for options in ({"region": "country"}, {"min_region_size": 3}):
    with pytest.raises(UserError, match="Only --data=csv:PATH"):
      sources.load("digits", **options)
