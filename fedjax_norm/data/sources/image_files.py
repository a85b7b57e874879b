"""Data sets of image files: lists of the files, and reading the images."""

import os
from typing import NamedTuple

import numpy as np

from fedjax_norm import number_parsing
from fedjax_norm.data import encoded_images, image_decoding, process_local
from fedjax_norm.data.examples import Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.train_test_split import held_out_note, stratified_split
from fedjax_norm.errors import UserError


class File(NamedTuple):
  """An image file.

  Attributes:
    path: the path of the file.
    label: the name of the class.
    client: the name of the natural client, or None.
    value: the target of regression, as text; None if the data has none.
    mask: the path of the file with the classes of the pixels, or None.
  """

  path: str
  label: str
  client: str | None
  value: str | None = None
  mask: str | None = None


class Listing(NamedTuple):
  """The files of a data set; no file is opened yet.

  Attributes:
    name: the kind of source, `folder`, `csv`, `masks` or `cityscapes`.
    train: the training images, at least one; either all have a client or none has.
    test: the test images; those with a client also test this client alone.
    notes: remarks to print, as in ``examples.Source``.
    target_names: one name per class of the pixels; None if the data names none.
    class_of_id: [256] int16, the class of each id in a mask, -1 for an id that masks cannot have;
      None if the ids are the classes.
  """

  name: str
  train: list[File]
  test: list[File]
  notes: tuple[str, ...] = ()
  target_names: tuple[str, ...] | None = None
  class_of_id: np.ndarray | None = None


class Labels(NamedTuple):
  """The labels and natural clients of the training examples of a source.

  Attributes:
    labels: [N] int32.
    clients: [N] int32, or None without natural clients.
    class_names: one name per label, in alphabetical order.
    client_names: one name per natural client, in alphabetical order, or None.
    notes: remarks to print, as in ``examples.Source``.
    test_clients: [M] int32, natural client of each test image; -1 without training images; None if
      no test image has a client.
  """

  labels: np.ndarray
  clients: np.ndarray | None
  class_names: tuple[str, ...]
  client_names: tuple[str, ...] | None
  notes: tuple[str, ...] = ()
  test_clients: np.ndarray | None = None


def split(
  files: list[File], strata: list[str], share: float, seed: int, data: str
) -> tuple[list[File], list[File], str]:
  """Splits files at random; returns the training files, the test files and a note for the user.

  Args:
    files: N files.
    strata: [N] the stratum of each file (see ``train_test_split.stratified_split``).
    share: share of the files to test on, at least one file.
    seed: seed of the split.
    data: name of the data in errors.

  Raises:
    UserError: every stratum has only one file, so none can be tested on.
  """
  num_test = max(1, round(share * len(files)))
  train, test = stratified_split(np.asarray(strata), num_test, seed)
  if not len(test):
    raise UserError(f"{data} has too few images, so that none is left to test on; add images.")
  note = held_out_note(len(test), len(files))
  return [files[i] for i in train], [files[i] for i in test], note


def labels(listing: Listing, data: str, open_set: bool = False) -> Labels:
  """Returns the numbered classes and natural clients of the training images.

  Args:
    listing: the files.
    data: name of the data in errors.
    open_set: whether the test classes may differ from the training classes.

  Raises:
    UserError: a class has test images but no training images, and `open_set` is False.
  """
  classes, numbers = _number_names([file.label for file in listing.train])
  unknown = sorted({file.label for file in listing.test}.difference(classes))
  if unknown and not open_set:
    raise UserError(
      f"{data}: class {unknown[0]!r} has test images but no training image; add some, or choose the"
      " task verification."
    )
  owners = [file.client for file in listing.train if file.client is not None]
  if not owners:
    return Labels(numbers, None, classes, None, listing.notes)
  client_names, clients = _number_names(owners)
  tested = [file.client for file in listing.test]
  number = {name: k for k, name in enumerate(client_names)}
  own = np.array([-1 if name is None else number.get(name, -1) for name in tested], np.int32)
  test_clients = own if any(name is not None for name in tested) else None
  return Labels(numbers, clients, classes, client_names, listing.notes, test_clients)


def load(
  listing: Listing,
  data: str,
  image_size: int | None,
  select_local: SelectLocal | None,
  open_set: bool = False,
  objective: str = "classification",
  decode: bool = True,
) -> Source:
  """Reads the images as uint8; they are RGB unless all are grayscale.

  Args:
    listing: the files.
    data: name of the data in errors.
    image_size: height and width in pixels to resize to; None requires images of one size.
    select_local: choice of the training images to decode; of others only the headers are read.
    open_set: whether the test classes may differ from the training classes.
    objective: classification, or regression of the files' values.
    decode: whether to decode the images now (see ``registry.load``).

  Raises:
    UserError: a class has no training image, an image is missing or damaged, sizes differ, or a
      value is not a number.
  """
  known = labels(listing, data, open_set)
  targets, test_targets, target_names = None, None, None
  if objective == "regression":
    targets, test_targets = _values(listing.train, data), _values(listing.test, data)
    target_names = ("value",)
  files = [*listing.train, *listing.test]
  missing = next((file.path for file in files if not os.path.isfile(file.path)), None)
  if missing:
    raise UserError(
      f"{data} names the image {missing}, which does not exist; correct or remove this entry."
    )
  _, read, read_test = open_images(listing, image_size, decode)
  test_classes = [file.label for file in listing.test]
  test_names, test_labels = _number_names(test_classes)
  if not open_set:
    label_of = {name: label for label, name in enumerate(known.class_names)}
    test_labels = np.asarray([label_of[name] for name in test_classes], np.int32)
  return Source(
    listing.name,
    process_local.read_examples(known.labels, known.clients, read, select_local, targets),
    process_local.read_examples(test_labels, known.test_clients, read_test, None, test_targets),
    known.class_names,
    known.client_names,
    known.notes,
    test_names if open_set else None,
    target_names,
  )


def open_images(
  listing: Listing, image_size: int | None, decode: bool
) -> tuple[list[tuple[int, int, int]], process_local.ReadImages, process_local.ReadImages]:
  """Reads the headers of all images.

  Args:
    listing: the files.
    image_size: height and width in pixels to resize to; None requires images of one size.
    decode: whether the functions decode the images.

  Returns:
    The height, width and channels of each training and then each test image in its file, and the
    functions that read the training and the test images.

  Raises:
    UserError: an image is damaged, or sizes differ.
  """
  files = [*listing.train, *listing.test]
  shapes = [image_decoding.header(file.path, file.path) for file in files]
  if image_size is None:
    for file, shape in zip(files, shapes, strict=True):
      if shape[:2] != shapes[0][:2]:
        raise image_decoding.different_sizes(file.path, shape, files[0].path, shapes[0])
  size = shapes[0][:2] if image_size is None else (image_size, image_size)
  shape = (*size, max(shape[2] for shape in shapes))

  def reader(part: list[File]) -> process_local.ReadImages:
    paths = [file.path for file in part]
    return encoded_images.of_files(paths, shape, image_size).reader(decode)

  return shapes, reader(listing.train), reader(listing.test)


def _values(files: list[File], data: str) -> np.ndarray:
  """Parses the regression target of each file: [N, 1] float32."""

  def number(file: File) -> float:
    if file.value is None:
      raise UserError(f"{data} has no column value, which regression needs; add this column.")
    try:
      return number_parsing.parse_float(file.value)
    except ValueError as error:
      raise UserError(f"{data}: the value of {file.path} is {file.value!r}; {error}") from None

  return np.array([[number(file)] for file in files], np.float32)


def _number_names(names: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
  """Returns the distinct names in alphabetical order, and the index of each name: [N] int32."""
  distinct = tuple(sorted(set(names)))
  number = {name: i for i, name in enumerate(distinct)}
  return distinct, np.asarray([number[name] for name in names], np.int32)
