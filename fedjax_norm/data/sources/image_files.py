"""Data whose images are files: what is known of them beforehand, and how they are read."""

import os
from typing import NamedTuple

import numpy as np

from fedjax_norm import number_text
from fedjax_norm.data import image_decoding, process_local
from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.train_test_split import stratified_split
from fedjax_norm.errors import UserError


class File(NamedTuple):
  """An image file.

  Attributes:
    path: where it is.
    label: the name of its class.
    client: the name of its natural client, or None.
    value: the number that regression is to say, as text; None where the data has none.
  """

  path: str
  label: str
  client: str | None
  value: str | None = None


class Listing(NamedTuple):
  """The files of a data set, none of them opened yet.

  Attributes:
    name: of the kind of source.
    train: the training images, at least one; all of them have a client or none has.
    test: the test images; their clients do not matter.
    notes: as of ``examples.Source``.
  """

  name: str
  train: list[File]
  test: list[File]
  notes: tuple[str, ...] = ()


class Labels(NamedTuple):
  """What the training examples of a source are labelled with.

  Attributes:
    labels: [N] int32.
    clients: [N] int32, or None without natural clients.
    class_names: one for each label, in alphabetical order.
    client_names: one for each natural client, in alphabetical order, or None.
    notes: as of ``examples.Source``.
  """

  labels: np.ndarray
  clients: np.ndarray | None
  class_names: tuple[str, ...]
  client_names: tuple[str, ...] | None
  notes: tuple[str, ...] = ()


def split(
  files: list[File], strata: list[str], share: float, seed: int, where: str
) -> tuple[list[File], list[File], str]:
  """Divides files at random into those to train on and those to test on, with a note that says so.

  Args:
    files: N of them.
    strata: [N], each of which is tested on by its share (see ``splits.stratified_split``).
    share: of the files, to test on; at least one is.
    seed: the only source of chance.
    where: what an error calls the data.

  Raises:
    UserError: no stratum has a file to spare.
  """
  num_test = max(1, round(share * len(files)))
  train, test = stratified_split(np.asarray(strata), num_test, seed)
  if not len(test):
    raise UserError(f"{where} has one image a class, none left to test on; add images.")
  note = f"held out {len(test):,} of {len(files):,} images ({share:.0%}) at random for the test"
  return [files[i] for i in train], [files[i] for i in test], note


def labels(listing: Listing, where: str, open_set: bool = False) -> Labels:
  """Numbers the classes and the natural clients.

  Args:
    listing: the files.
    where: what an error calls the data.
    open_set: whether the test classes may be others than the training ones.

  Raises:
    UserError: a class has test images alone.
  """
  classes, numbers = _numbered([file.label for file in listing.train])
  unknown = sorted({file.label for file in listing.test}.difference(classes))
  if unknown and not open_set:
    raise UserError(
      f"{where}: class {unknown[0]!r} has test images but no training image; add one, or choose the"
      " task verification."
    )
  owners = [file.client for file in listing.train if file.client is not None]
  if not owners:
    return Labels(numbers, None, classes, None, listing.notes)
  clients, owned = _numbered(owners)
  return Labels(numbers, owned, classes, clients, listing.notes)


def load(
  listing: Listing,
  where: str,
  image_size: int | None,
  select_local: SelectLocal | None,
  open_set: bool = False,
  objective: str = "classification",
) -> Source:
  """Reads the images as uint8; they are RGB unless every one is grayscale.

  Args:
    listing: the files.
    where: what an error calls the data.
    image_size: the side to resize every image to; None demands that all have one size.
    select_local: which training images are decoded; of the others only the headers are read, which tell
      size and colour. None decodes all.
    open_set: whether the test classes may be others than the training ones; they have labels of
      their own then.
    objective: classification or regression, of the files' values.

  Raises:
    UserError: a class has test images alone, an image is missing or damaged, sizes differ, or a
      value is no number.
  """
  known = labels(listing, where, open_set)
  targets, test_targets, target_names = None, None, None
  if objective == "regression":
    targets, test_targets = _values(listing.train, where), _values(listing.test, where)
    target_names = ("value",)
  files = [*listing.train, *listing.test]
  missing = next((file.path for file in files if not os.path.isfile(file.path)), None)
  if missing:
    raise UserError(f"{where} names the image {missing}, which is not there; mend or remove it.")
  shapes = [image_decoding.header(file.path, file.path) for file in files]
  if image_size is None:
    _same_size(files, shapes)
  channels = max(shape[2] for shape in shapes)

  def reader(part: list[File]) -> process_local.Read:
    paths = [file.path for file in part]

    def read(ids: np.ndarray | None) -> np.ndarray:
      wanted = paths if ids is None else [paths[i] for i in ids]
      return image_decoding.stack(wanted, len(paths), paths.__getitem__, channels, image_size, ids)

    return read

  tested = [file.label for file in listing.test]
  test_names, test_labels = _numbered(tested)
  if not open_set:
    label_of = {name: label for label, name in enumerate(known.class_names)}
    test_labels = np.asarray([label_of[name] for name in tested], np.int32)
  return Source(
    listing.name,
    process_local.examples(
      known.labels, known.clients, reader(listing.train), select_local, targets
    ),
    Examples(reader(listing.test)(None), test_labels, targets=test_targets),
    known.class_names,
    known.client_names,
    known.notes,
    test_names if open_set else None,
    target_names,
  )


def _values(files: list[File], where: str) -> np.ndarray:
  """What regression is to say of each image: [N, 1] float32."""

  def number(file: File) -> float:
    if file.value is None:
      raise UserError(f"{where} has no column value, which regression needs; add it.")
    try:
      return number_text.real(file.value)
    except ValueError as error:
      raise UserError(f"{where}: the value of {file.path} is {file.value!r}; {error}") from None

  return np.array([[number(file)] for file in files], np.float32)


def _numbered(names: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
  """The distinct names in alphabetical order, and the place among them of each: [N] int32."""
  distinct = tuple(sorted(set(names)))
  number = {name: i for i, name in enumerate(distinct)}
  return distinct, np.asarray([number[name] for name in names], np.int32)


def _same_size(files: list[File], shapes: list[tuple[int, int, int]]) -> None:
  for file, shape in zip(files, shapes, strict=True):
    if shape[:2] != shapes[0][:2]:
      raise UserError(
        f"{file.path} has {shape[0]}x{shape[1]} pixels where {files[0].path} has"
        f" {shapes[0][0]}x{shapes[0][1]}; give an image size to resize them all to."
      )
