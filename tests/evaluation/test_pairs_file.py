"""Files in the format of LFW's pairs.txt: every pair in its fold, and one sentence for an error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.pairs_file import read_pairs

IMAGES = [f"lfw/{name}/{name}_{i:04}.jpg" for name in ("Al_B", "José", "C") for i in (1, 2, 10)]
SAME, OTHER = "Al_B\t1\t10", "José\t2\tC\t1"


def pairs_of(folder, lines, head="10\t1"):
  file = folder / "pairs.txt"
  file.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
  return read_pairs(str(file), IMAGES)


@settings(max_examples=8)
@given(st.integers(1, 3), st.randoms(use_true_random=False))
def test_pairs_are_those_of_the_lines(tmp_path_factory, each, random):
  """Names, numbers and folds are drawn, written as LFW writes them, and found again."""
  names, lines, expected = ("Al_B", "José", "C"), [], []
  for fold in range(10):
    for same in [True] * each + [False] * each:
      a, b = random.sample(range(3), 2)
      i, j = random.sample(range(3), 2)
      numbers = [(1, 2, 10)[i], (1, 2, 10)[j]]
      b = a if same else b
      words = [names[a], numbers[0], *([] if same else [names[b]]), numbers[1]]
      lines.append("\t".join(map(str, words)))
      expected.append((3 * a + i, 3 * b + j, same, fold))
  found = pairs_of(tmp_path_factory.mktemp("pairs"), lines, f"10\t{each}")
  for values, column in zip(found, zip(*expected, strict=True), strict=True):
    np.testing.assert_array_equal(values, column)


@pytest.mark.parametrize(
  ("head", "line", "words"),
  [
    ("9\t1", OTHER, "first line .* '9\\\\t1'; it must have the number of folds, 10"),
    ("10", OTHER, "first line"),
    ("10\t0", OTHER, "first line"),
    ("10\tmany", OTHER, "first line"),
    ("10\t2", OTHER, "20 lines of pairs, but .* have 40"),
    ("10\t1", "José\t2\tC", "line 3 of .*'José.*; it must be 'name number othername number'"),
    ("10\t1", "José\t2\tC\tx", "line 3 of .* must be"),
    ("10\t1", "José\t2\tJosé\t1", "line 3 of .* must be"),
    ("10\t1", SAME, "line 3 of .* must be"),
    ("10\t1", "Al_B\t1\tC", "because each fold has first the pairs of one identity"),
    ("10\t1", "José\t2\tC\t3", "line 3 of .* names C/C_0003, which is no test image"),
    ("10\t1", "", "line 3"),
  ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, head, line, words):
  with pytest.raises(UserError, match=words) as error:
    pairs_of(tmp_path, [SAME, line, *[SAME, OTHER] * 9], head)
  assert "\n" not in str(error.value)


def test_an_image_is_no_pair_with_itself(tmp_path):
  with pytest.raises(UserError, match=r"line 2 of .* a pair of an image with itself"):
    pairs_of(tmp_path, ["C\t2\t2", OTHER, *[SAME, OTHER] * 9])


@pytest.mark.parametrize(
  ("content", "words"),
  [(None, "cannot be read .No such"), (b"\xff\xfe\x00", "is no text"), (b"", "is empty")],
)
def test_an_unreadable_file_is_one_sentence(tmp_path, content, words):
  if content is not None:
    (tmp_path / "pairs.txt").write_bytes(content)
  with pytest.raises(UserError, match=words):
    read_pairs(str(tmp_path / "pairs.txt"), IMAGES)
