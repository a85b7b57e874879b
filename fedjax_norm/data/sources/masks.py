"""Data for segmentation: images, and for each of them a mask with the class of every pixel."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from fedjax_norm import host_memory
from fedjax_norm.data import image_decoding
from fedjax_norm.data.encoded_images import decode_all
from fedjax_norm.data.examples import Source
from fedjax_norm.data.names import join_first, normalize
from fedjax_norm.data.process_local import SelectLocal, read_examples
from fedjax_norm.data.sources import folders, image_files
from fedjax_norm.data.sources.image_files import File, Listing
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import IGNORED

_LAYOUT = folders.Layout("masks", "image", "CLIENT/image")


def scan(path: str, seed: int) -> Listing:
  """Lists the images of the folder `images` and their masks in the folder `masks` beside it.

  `images` has the layout of ``folders.scan`` without folders of classes. The mask of an image is a
  PNG file at the same place: that of `images/train/CLIENT/1.jpg` is `masks/train/CLIENT/1.png`.

  Args:
    path: the folder that has these two.
    seed: seed of the split of images without a test set.

  Raises:
    UserError: a folder is missing or has another layout, or an image or a mask has no partner.
  """
  trees = [Path(path, name) for name in ("images", "masks")]
  if missing := [tree for tree in trees if not tree.is_dir()]:
    raise UserError(
      f"there is no folder {missing[0]}; --data=masks:PATH needs the folders images and masks in"
      " PATH, or leftImg8bit and gtFine of Cityscapes."
    )
  listing = folders.scan(str(trees[0]), seed, _LAYOUT)
  images, masks = ([file for _, files in folders.walk(tree) for file in files] for tree in trees)
  return pair(
    listing,
    places(trees[0], filter(image_decoding.is_image, images)),
    places(trees[1], (mask for mask in masks if mask.suffix.lower() == ".png")),
    trees[1],
    ".png",
  )


def places(tree: Path, files: Iterable[Path], ending: str | None = None) -> dict[str, str]:
  """Returns place -> path: the place is the path in a tree without its suffix or the ``ending``."""
  names = ((normalize(file.relative_to(tree).as_posix()), file) for file in files)
  return {name.removesuffix(ending or file.suffix): str(file) for name, file in names}


def pair(
  listing: Listing, images: Mapping[str, str], masks: Mapping[str, str], tree: Path, ending: str
) -> Listing:
  """Returns a listing with the mask of each image.

  Args:
    listing: the images that are used.
    images: place -> path of all images.
    masks: place -> path of all masks.
    tree: the folder of the masks.
    ending: what follows the place in the path of a mask.

  Raises:
    UserError: an image has no mask, or a mask no image, or two images share a mask.
  """
  if lone := sorted(masks.keys() - images.keys()):
    raise UserError(f"{masks[lone[0]]} is the mask of no image; add the image or remove the mask.")
  place_of = {path: place for place, path in images.items()}

  def paired(file: File) -> File:
    if file.path not in place_of:
      raise UserError(
        f"the name of {file.path} differs from that of another image only in its suffix, so that"
        " both have one mask; rename one of the images."
      )
    place = place_of[file.path]
    if place not in masks:
      raise UserError(
        f"{file.path} has no mask {tree / place}{ending}; add the mask or remove the image."
      )
    return file._replace(mask=masks[place])

  train, test = (list(map(paired, part)) for part in (listing.train, listing.test))
  return listing._replace(train=train, test=test)


def load(
  listing: Listing,
  data: str,
  image_size: int | None,
  select_local: SelectLocal | None,
  decode: bool,
) -> Source:
  """Reads the images, as ``image_files.load`` does, and all masks; only segmentation can use them.

  The label of an image is the class of most of its pixels, whatever the image size.

  Args:
    listing: the files.
    data: name of the data in errors.
    image_size: height and width in pixels to resize to, images bilinearly and masks by the nearest
      pixel; None requires images of one size.
    select_local: choice of the training images to decode; of others only the headers are read.
    decode: whether to decode the images now (see ``registry.load``).

  Raises:
    UserError: an image or a mask is damaged, sizes differ, a mask has colours or unknown ids, or
      the training or the test pixels have no class.
  """
  shapes, read, read_test = image_files.open_images(listing, image_size, decode)
  files = [*listing.train, *listing.test]
  pixels, counts = _read_masks(files, shapes, image_size, listing.class_of_id)
  train, test = slice(len(listing.train)), slice(len(listing.train), None)  # copy nothing
  names, notes = _class_names(listing, data, files, counts[train], counts[test])
  if empty := int((counts[:, :IGNORED].sum(1) == 0).sum()):
    notes = (*notes, f"images without a pixel that counts, with the label 0: {empty:,}")
  classes = counts[:, :IGNORED].argmax(1).astype(np.int32)
  known = image_files.labels(listing, data)
  return Source(
    listing.name,
    read_examples(classes[train], known.clients, read, select_local, pixels[train]),
    read_examples(classes[test], known.test_clients, read_test, None, pixels[test]),
    names,
    known.client_names,
    (*known.notes, *notes),
    target_names=names,
  )


def _read_masks(
  files: list[File],
  shapes: list[tuple[int, int, int]],
  size: int | None,
  class_of_id: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the resized masks [N, H, W] uint8, and their original pixels of each class [N, 256]."""

  def read(file: File, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    assert file.mask is not None
    ids = image_decoding.decode_ids(file.mask, file.mask)
    if ids.shape != shape[:2]:
      raise UserError(
        f"{file.mask} has {ids.shape[0]}x{ids.shape[1]} pixels, but its image {file.path} has"
        f" {shape[0]}x{shape[1]}; save the mask in the size of its image."
      )
    classes = ids
    if class_of_id is not None:
      classes = class_of_id[ids]
      if (unknown := ids[classes < 0]).size:
        raise UserError(
          f"{file.mask} has the id {unknown[0]}, which is no label id of Cityscapes; use the masks "
          "of the official archive."
        )
      classes = classes.astype(np.uint8)
    counts = np.bincount(classes.ravel(), minlength=IGNORED + 1)
    return image_decoding.resize_classes(classes[None], size)[0], counts

  height, width = shapes[0][:2] if size is None else (size, size)
  what = f"an array of {len(files):,} masks of {height}x{width} pixels"
  host_memory.check(len(files) * height * width, what, "choose a smaller image size")
  pixels = np.empty((len(files), height, width), np.uint8)
  counts = np.empty((len(files), IGNORED + 1), np.int64)
  for i, (mask, of_mask) in enumerate(decode_all(read, files, shapes)):
    pixels[i], counts[i] = mask, of_mask
  return pixels, counts


def _class_names(
  listing: Listing, data: str, files: list[File], train: np.ndarray, test: np.ndarray
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Returns the names of the classes of pixels, and notes; ``train``, ``test``: [N, 256] pixels."""
  counts = np.concatenate([train, test])[:, :IGNORED]
  for what, part in (("training", train), ("test", test)):
    if not part[:, :IGNORED].any():
      raise UserError(f"no pixel of the {what} masks of {data} has a class; use other masks.")
  count = 1 + int(np.flatnonzero(counts.any(0))[-1])
  names = listing.target_names or tuple(map(str, range(count)))
  if count > len(names):
    mask = files[int(counts[:, count - 1].argmax())].mask
    raise UserError(
      f"{mask} has the id {count - 1}, but {listing.name} has {len(names)} classes, from 0;"
      " use the masks of the official archive."
    )
  if count == 1:
    raise UserError(
      f"the masks of {data} have only the ids 0 and {IGNORED}, and {IGNORED} does not count; number"
      " the classes from 0, such as 0 for the background and 1 for an object."
    )
  absent = [names[c] for c in np.flatnonzero(~train[:, : len(names)].any(0))]
  notes = [f"no training pixel has one of the classes {join_first(absent)}"] if absent else []
  if listing.target_names is None and not counts[:, count - 2].any():
    mask = files[int(counts[:, count - 1].argmax())].mask
    notes.append(f"there are {count} classes because {mask} has the id {count - 1}")
  return names, tuple(notes)
