"""The binary that prints and draws the classes of each region."""

import csv

import numpy as np
import pytest
from absl import flags

from fedjax_norm.cli.commands import regions
from fedjax_norm.cli.flags import define, parse
from fedjax_norm.errors import UserError
from fedjax_norm.papers import paper_004_regions


def run(folder, *options):
  values = flags.FlagValues()
  define(regions.CONFIG, values)
  values(["regions", f"--output={folder / 'out'}", *options])  # the last of repeated flags is used
  regions.run(parse(regions.CONFIG, values))


@pytest.fixture
def index(tmp_path):
  """Returns an index of 100 zebras and 20 cats, two cats without a country; no image exists."""
  where = ["KE"] * 75 + ["US"] * 25 + ["ZA"] * 15 + ["DE"] * 3 + [""] * 2
  rows = [
    f"{i}.png,{'zebra' if i < 100 else 'cat'},{code},{'test' if i % 5 == 4 else 'train'}"
    for i, code in enumerate(where)
  ]
  (tmp_path / "index.csv").write_text("\n".join(["path,label,country,split", *rows]))
  return f"--data=csv:{tmp_path / 'index.csv'}"


def test_the_table_and_the_files_have_the_shares(tmp_path, capsys, index):
  run(tmp_path, index, "--top=1")
  out = capsys.readouterr().out
  assert "note: left out 2 of 120 images, which have no natural client\n" in out
  first, _, second = out.partition("shares beside those in table 1 of paper 004:\n")
  lines = [line.split() for line in first.splitlines() if line]
  # Training images: Africa 60 zebras and 12 cats, Americas 20 zebras, Europe 3 cats. The Americas
  # have the normalized share 1 / (1 + 5 / 6) of zebras, Europe 1 / (1 + 1 / 6) of cats.
  table = {line[0]: line[1:] for line in lines if line[0] in ("Africa", "Americas", "Europe")}
  assert table == {
    "Africa": ["72", "zebra", "(45%)"],
    "Americas": ["20", "zebra", "(55%)"],
    "Europe": ["3", "cat", "(86%)"],
  }
  # The paper names zebras in Africa only, and no cats.
  assert [line.split() for line in second.splitlines()[:4] if "zebra" in line] == [
    ["Africa", "zebra", "45%", "72%"]
  ]
  with open(tmp_path / "out" / "counts.csv") as file:
    assert list(csv.reader(file)) == [
      ["region", "cat", "zebra"],
      ["Africa", "12", "60"],
      ["Americas", "0", "20"],
      ["Europe", "3", "0"],
    ]
  with open(tmp_path / "out" / "share_raw.csv") as file:
    assert [row[1] for row in csv.reader(file)] == ["cat", "0.8", "0", "0.2"]
  names = {path.name for path in (tmp_path / "out").glob("*.png")}
  assert names == {"classes.png", "regions.png", "share_raw.png", "share_normalized.png"}


def test_names_match_in_any_spelling():
  share = np.array([[0.2, 0.7], [0.8, 0.3]])
  found = paper_004_regions.beside(share, ["oceania", "Asia"], ["Sea_Lion", "red-panda"])
  assert found == [("Asia", "red panda", 0.3, 0.42), ("Oceania", "sea lion", 0.2, 0.34)]


def test_any_partition_has_regions(tmp_path, capsys):
  data = "--data=synthetic:classes=4,train=80,test=8,size=3"
  run(tmp_path, data, "--partition=classes", "--clients=4")
  out = capsys.readouterr().out
  assert out.count("(100%)") == 4  # one class per client
  assert "on average 3.0 of 4 regions have less than 1% of a class" in out


def test_images_without_a_region_are_left_out_for_any_partition(tmp_path, capsys, index):
  run(tmp_path, index, "--partition=iid", "--clients=5", "--region=continent")
  out = capsys.readouterr().out
  assert "left out 2 of 120 images" in out
  assert out.count("client ") == 5


def test_identities_to_verify_have_a_table(tmp_path, capsys):
  """The test classes of the folder differ from its training classes."""
  for path in ("train/anna/a.png", "train/ben/b.png", "test/carl/c.png"):
    (tmp_path / "faces" / path).parent.mkdir(parents=True)
    (tmp_path / "faces" / path).touch()
  run(tmp_path, f"--data=folder:{tmp_path / 'faces'}", "--partition=iid", "--clients=2")
  assert "carl" not in capsys.readouterr().out


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (["--top=0"], "top"),
    (["--data=digits"], "natural"),
    (["--data=digits", "--region=country"], "csv"),
    (["--min_region_size=-1"], "min_region_size"),
    (["--output=/dev/null"], "another path"),
    (["--output=/dev/null/regions"], "another path"),
  ],
)
def test_errors_are_one_sentence(tmp_path, index, options, words):
  with pytest.raises(UserError, match=words):
    run(tmp_path, index, *options)
