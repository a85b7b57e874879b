"""Reads ``pairs.txt`` of Labeled Faces in the Wild: the pairs on which accuracies are reported."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedjax_norm.data.names import normalize
from fedjax_norm.errors import UserError
from fedjax_norm.evaluation.verification import Pairs

_FOLDS = 10


def read_pairs(path: str, images: Sequence[str]) -> Pairs:
  """Returns the pairs that a file in LFW's format names, in its ten folds.

  The first line has the number of folds, 10, and the number n of pairs of a kind in a fold (LFW:
  300). Each fold has n lines ``name i j``, images i and j of one identity, and then n lines
  ``name i other j``, images of two identities. Image i of an identity is the file
  ``name/name_000i`` with any suffix.

  Args:
    path: path of the file.
    images: paths of the test images, in the order of their ids.

  Raises:
    UserError: the file cannot be read, has another number of folds or pairs or a malformed line, or
      names an image that is missing.
  """
  advice = "give the path of a file in the format of LFW's pairs.txt."
  try:
    text = normalize(Path(path).expanduser().read_text(encoding="utf-8")).rstrip()
  except OSError as error:
    raise UserError(f"--pairs={path} cannot be read ({error.strerror}); {advice}") from error
  except ValueError as error:
    raise UserError(f"--pairs={path} is no text; {advice}") from error
  if not text:
    raise UserError(f"--pairs={path} is empty; {advice}")
  head, *lines = text.splitlines()
  numbers = [int(word) if _is_number(word) else 0 for word in head.split()]
  if len(numbers) != 2 or min(numbers) < 1 or numbers[0] != _FOLDS:
    raise UserError(
      f"the first line of {path} is {head!r}; it must have the number of folds, {_FOLDS}, and the "
      "number of pairs of a kind in a fold, as in '10 300'."
    )
  each = numbers[1]
  if len(lines) != 2 * _FOLDS * each:
    raise UserError(
      f"{path} has {len(lines)} lines of pairs, but {_FOLDS} folds with {each} pairs of each kind "
      f"have {2 * _FOLDS * each}; restore the file."
    )
  ids = {(Path(file).parent.name, Path(file).stem): i for i, file in enumerate(images)}
  ids = {(normalize(name), normalize(stem)): i for (name, stem), i in ids.items()}
  same = np.arange(len(lines)) // each % 2 == 0
  pairs = []
  for number, (line, alike) in enumerate(zip(lines, same, strict=True), start=2):
    for name, image in _parse(line, alike, f"line {number} of {path}"):
      key = name, f"{name}_{int(image):04d}"
      if key not in ids:
        raise UserError(
          f"line {number} of {path} names {'/'.join(key)}, which is no test image; add it, or pass "
          "the file that belongs to the data."
        )
      pairs.append(ids[key])
  first, second = np.array(pairs, np.int32).reshape(-1, 2).T
  return Pairs(first, second, same, (np.arange(len(lines)) // (2 * each)).astype(np.int32))


def _parse(line: str, same: bool, where: str) -> list[tuple[str, str]]:
  """Returns the name and the number of both images of a line."""
  words = line.split()
  if len(words) == 3 and same:
    words.insert(2, words[0])
  valid = len(words) == 4 and _is_number(words[1]) and _is_number(words[3])
  if not valid or (words[0] == words[2]) != same:
    form = "name number number" if same else "name number othername number"
    raise UserError(
      f"{where} is {line!r}; it must be {form!r}, because each fold has first the pairs of one "
      "identity and then as many of two."
    )
  if words[:2] == words[2:]:
    raise UserError(f"{where} is {line!r}, a pair of an image with itself; name two images.")
  return [(words[0], words[1]), (words[2], words[3])]


def _is_number(word: str) -> bool:
  return word.isdecimal() and len(word) < 10
