"""Data from a folder of image files."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fedjax_norm.data import image_decoding
from fedjax_norm.data.names import join_first, normal, split_of
from fedjax_norm.data.sources.image_files import File, Listing, split
from fedjax_norm.errors import UserError

_TEST_SHARE = 0.2
_DEEPEST = 3  # folders above an image: SPLIT/CLIENT/CLASS; links are not followed further down
_LAYOUTS = "CLASS/image or CLIENT/CLASS/image"


def scan(path: str, seed: int) -> Listing:
  """Finds the images of a folder.

  Three layouts are understood: `CLASS/image`; `CLIENT/CLASS/image`, where the clients are a natural
  partition; and split folders, each in one of the first two layouts. A split folder has a usual
  name in any case (see ``names.split_of``), such as `train` or `Training`, `test`, or `val`. The
  test set is `test`, or `val` where there is no `test`. Without either, a seeded fifth of the
  images, stratified by class and client, is the test set.

  Which files are images is for ``images.is_image`` to say. ``notes`` tells which files and folders
  are skipped; hidden ones and `__MACOSX` are skipped without a note.

  Args:
    path: the folder.
    seed: the chance in the split.

  Raises:
    UserError: the folder is missing or empty, or has another layout.
  """
  root = Path(path)
  if not root.is_dir():
    raise UserError(f"There is no folder {path!r}; give the path of a folder of images.")
  found = dict(_walk(root))
  images = [file for files in found.values() for file in files if image_decoding.is_image(file)]
  notes = _skipped(root, found, images)
  if not images:
    raise UserError("; ".join([*notes, f"{path} holds no images, so fill it as {_LAYOUTS}."]))
  folders = _splits(root, images)
  if "test" in folders and "val" in folders:
    val = folders.pop("val")
    if unused := sum(val in image.parents for image in images):
      notes.append(
        f"the test set is {folders['test'].name}; the {unused:,} images of {val.name} are not used"
      )
  parts = {kind: _files(folder, images, folder != root) for kind, folder in folders.items()}
  train = parts.pop("train")
  if parts:
    (test,) = parts.values()
    return Listing("folder", train, test, tuple(notes))
  strata = [f"{file.client}/{file.label}" for file in train]
  train, test, note = split(train, strata, _TEST_SHARE, seed, path)
  return Listing("folder", train, test, (*notes, note))


def _walk(folder: Path, depth: int = 0) -> Iterator[tuple[Path, list[Path]]]:
  """Gives a folder and those below it, each with its files, in alphabetical order."""
  visible = (child for child in folder.iterdir() if not child.name.startswith((".", "__MACOSX")))
  children = sorted(visible)
  yield folder, [child for child in children if not child.is_dir()]
  if depth > _DEEPEST and folder.is_symlink():  # links could lead down without end
    return
  for child in children:
    if child.is_dir():
      yield from _walk(child, depth + 1)


def _skipped(root: Path, found: dict[Path, list[Path]], images: list[Path]) -> list[str]:
  """Notes about the files that are no images, and about the folders without images."""
  notes = []
  suffixes = Counter(file.suffix.lower() for files in found.values() for file in files)
  suffixes.subtract(image.suffix.lower() for image in images)
  if others := suffixes.total():
    kinds = [f"{n:,} {suffix or 'without suffix'}" for suffix, n in suffixes.most_common() if n]
    notes.append(
      f"files skipped because Pillow does not read them as images: {others:,} ({join_first(kinds)})"
    )
  filled = {folder for image in images for folder in image.parents}
  empty = [folder for folder in found if folder not in filled and folder.parent in filled]
  if empty:
    names = join_first([str(folder.relative_to(root)) for folder in empty])
    notes.append(f"folders skipped because no image is in them: {names}")
  return notes


def _splits(root: Path, images: list[Path]) -> dict[str, Path]:
  """Finds the folder of each split; the root is the training set where there are no splits.

  Raises:
    UserError: there are other folders beside splits, a split twice, or no training set.
  """
  filled = {root / image.relative_to(root).parts[0] for image in images}
  tops = {top: split_of(top.name) for top in root.iterdir() if top.is_dir()}
  named = sorted(top for top, kind in tops.items() if kind)
  if not named:
    return {"train": root}
  others = sorted(filled.difference(named))
  if others:
    raise UserError(
      f"{root} holds {named[0].name!r}, which names a split, beside {others[0].name!r}; keep only"
      f" split folders there, or rename {named[0].name!r} if it is a class or a client."
    )
  folders = {kind: top for top, kind in tops.items() if kind}
  if len(folders) < len(named):
    raise UserError(
      f"{root} holds one split under two names among {', '.join(top.name for top in named)}; merge"
      " the two."
    )
  if "train" not in folders:
    raise UserError(
      f"{root} holds {named[0].name!r} but no training set; add a folder train, or rename it if it"
      " is a class or a client."
    )
  return folders


def _files(root: Path, images: list[Path], is_split: bool) -> list[File]:
  """Reads classes and clients off the paths of the images under a folder.

  A folder whose folders all name splits is refused, for its splits would be read as classes or as
  clients. Only within a split folder may all classes have such names.
  """
  filled = {folder for image in images for folder in image.parents if root in folder.parents}
  plain = {folder.parent for folder in filled if not split_of(folder.name)}
  files = []
  for image in images:
    if root not in image.parents:
      continue
    names = [normal(name) for name in image.relative_to(root).parts[:-1]]
    if not names:
      raise UserError(f"{image} lies outside any class folder; move it into one.")
    checked = image.parents[int(is_split) : len(names)]
    if splits := [folder.name for folder in checked if folder.parent not in plain]:
      raise UserError(
        f"{image.parent} lies in {splits[0]!r}, which names a split; put split folders at the top,"
        " as train/CLASS/image or train/CLIENT/CLASS/image, or rename it."
      )
    if len(names) > 2:
      raise UserError(f"{image.parent} is nested too deep; use {_LAYOUTS}.")
    files.append(File(str(image), names[-1], names[0] if len(names) == 2 else None))
  if not files:
    raise UserError(f"{root} holds no images; fill it as {_LAYOUTS}.")
  if len({file.client is None for file in files}) > 1:
    raise UserError(f"{root} mixes CLASS/image with CLIENT/CLASS/image; use one layout.")
  return files
