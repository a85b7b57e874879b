"""The layout and the classes of Cityscapes (Cordts et al. 2016), whose cities are the clients."""

from pathlib import Path

import numpy as np

from fedjax_norm.data.names import join_first, normalize
from fedjax_norm.data.sources import masks
from fedjax_norm.data.sources.image_files import File, Listing
from fedjax_norm.errors import UserError
from fedjax_norm.objectives import IGNORED

CLASSES = {
  7: "road",
  8: "sidewalk",
  11: "building",
  12: "wall",
  13: "fence",
  17: "pole",
  19: "traffic light",
  20: "traffic sign",
  21: "vegetation",
  22: "terrain",
  23: "sky",
  24: "person",
  25: "rider",
  26: "car",
  27: "truck",
  28: "bus",
  31: "train",
  32: "motorcycle",
  33: "bicycle",
}
"""Label id -> name of the classes to train on, in the order of the train ids, by the official
table ``cityscapesscripts/helpers/labels.py``."""

_IDS = 34  # label ids from 0; that of licence plates, -1, is 255 in a file
_IMAGES, _MASKS = "leftImg8bit", "gtFine"
_IMAGE_END = "_leftImg8bit.png"
_LABEL_IDS, _TRAIN_IDS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
_SPLITS = ("train", "val")


def is_layout(path: str) -> bool:
  """Returns whether a folder has the folders of Cityscapes' archives."""
  return any(Path(path, name).is_dir() for name in (_IMAGES, _MASKS))


def scan(path: str) -> Listing:
  """Lists the images of Cityscapes and their masks.

  Images are `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`, with the masks
  `gtFine/SPLIT/CITY/*_gtFine_labelIds.png` or, without any of these, `*_gtFine_labelTrainIds.png`.
  The test set is `val`, because the masks of the official test set are not public.

  Raises:
    UserError: a split has no images, or an image or a mask has no partner.
  """
  images, ids = Path(path, _IMAGES), Path(path, _MASKS)

  def found(tree: Path, split: str, ending: str) -> dict[str, str]:
    return masks.places(tree, sorted((tree / split).glob(f"*/[!.]*{ending}")), ending)

  train, test = (found(images, split, _IMAGE_END) for split in _SPLITS)
  for split, part in zip(_SPLITS, (train, test), strict=True):
    if not part:
      raise UserError(
        f"{images / split} holds no images CITY/*{_IMAGE_END}; unpack"
        f" leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of Cityscapes in {path}."
      )
  label_ids, train_ids = (
    {place: at for split in _SPLITS for place, at in found(ids, split, ending).items()}
    for ending in (_LABEL_IDS, _TRAIN_IDS)
  )
  others = sorted(one.name for one in images.iterdir() if one.is_dir() and one.name not in _SPLITS)
  class_of_id = np.full(IGNORED + 1, -1, np.int16)
  class_of_id[[*range(_IDS), IGNORED]] = IGNORED
  class_of_id[list(CLASSES)] = np.arange(len(CLASSES))

  def files(part: dict[str, str]) -> list[File]:
    return [File(at, "", normalize(Path(at).parent.name)) for at in part.values()]

  listing = Listing(
    "cityscapes",
    files(train),
    files(test),
    notes=(f"the test set is val; not used: {join_first(others)}",) if others else (),
    target_names=tuple(CLASSES.values()),
    class_of_id=class_of_id if label_ids else None,
  )
  return masks.pair(listing, train | test, label_ids or train_ids, ids, _LABEL_IDS)
