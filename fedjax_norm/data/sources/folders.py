"""Data from a folder of image files, with classes and clients as subfolders."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fedjax_norm.data import image_decoding
from fedjax_norm.data.names import join_first, normalize, split_of
from fedjax_norm.data.sources.image_files import File, Listing, split
from fedjax_norm.errors import UserError

_TEST_SHARE = 0.2
_MAX_DEPTH = 3  # SPLIT/CLIENT/CLASS; symbolic links further down are not followed


class Layout(NamedTuple):
  """Where the images of a kind of source are, without split folders.

  Attributes:
    source: the kind of source.
    plain: the path of an image without natural clients.
    by_client: the same in a folder of its client.
  """

  source: str
  plain: str
  by_client: str

  @property
  def text(self) -> str:
    """Both paths, for errors."""
    return f"{self.plain} or {self.by_client}"


CLASSES = Layout("folder", "CLASS/image", "CLIENT/CLASS/image")


def scan(path: str, seed: int, layout: Layout = CLASSES) -> Listing:
  """Lists the images of a folder.

  Three layouts are accepted: ``plain``; ``by_client``, with natural clients; and split folders,
  each in one of the first two layouts. A split folder has a usual name in any case (see
  ``names.split_of``), such as `train` or `Training`, `test`, or `val`. The test set is `test`, or
  `val` if there is no `test`. Without both, a random fifth of the images, stratified by class and
  client, is the test set.

  ``image_decoding.is_image`` decides which files are images. ``notes`` lists the files and folders
  that are skipped, except hidden ones and `__MACOSX`.

  Args:
    path: the folder.
    seed: seed of the split.
    layout: the accepted layouts; without a folder for each class, labels are empty texts.

  Raises:
    UserError: the folder is missing or empty, or has another layout.
  """
  root = Path(path)
  if not root.is_dir():
    raise UserError(f"There is no folder {path!r}; give the path of a folder of images.")
  tree = dict(walk(root))
  images = [file for files in tree.values() for file in files if image_decoding.is_image(file)]
  notes = _skipped(root, tree, images)
  if not images:
    raise UserError("; ".join([*notes, f"{path} holds no images; fill it as {layout.text}."]))
  folders = _splits(root, images)
  if "test" in folders and "val" in folders:
    val = folders.pop("val")
    if unused := sum(val in image.parents for image in images):
      notes.append(
        f"the test set is {folders['test'].name}; the {unused:,} images of {val.name} are not used"
      )
  parts = {kind: _files(folder, images, layout, folder != root) for kind, folder in folders.items()}
  train = parts.pop("train")
  if parts:
    (test,) = parts.values()
    return Listing(layout.source, train, test, tuple(notes))
  strata = [f"{file.client}/{file.label}" for file in train]
  train, test, note = split(train, strata, _TEST_SHARE, seed, path)
  return Listing(layout.source, train, test, (*notes, note))


def walk(folder: Path, depth: int = 0) -> Iterator[tuple[Path, list[Path]]]:
  """Yields a folder and its subfolders, each with its files, in alphabetical order."""
  visible = (child for child in folder.iterdir() if not child.name.startswith((".", "__MACOSX")))
  children = sorted(visible)
  yield folder, [child for child in children if not child.is_dir()]
  if depth > _MAX_DEPTH and folder.is_symlink():  # symbolic links could form a cycle
    return
  for child in children:
    if child.is_dir():
      yield from walk(child, depth + 1)


def _skipped(root: Path, tree: dict[Path, list[Path]], images: list[Path]) -> list[str]:
  """Returns notes about the files that are not images, and about the folders without images."""
  notes = []
  suffixes = Counter(file.suffix.lower() for files in tree.values() for file in files)
  suffixes.subtract(image.suffix.lower() for image in images)
  if others := suffixes.total():
    kinds = [f"{n:,} {suffix or 'without suffix'}" for suffix, n in suffixes.most_common() if n]
    notes.append(
      f"files skipped because Pillow does not read them as images: {others:,} ({join_first(kinds)})"
    )
  filled = {folder for image in images for folder in image.parents}
  empty = [folder for folder in tree if folder not in filled and folder.parent in filled]
  if empty:
    names = join_first([str(folder.relative_to(root)) for folder in empty])
    notes.append(f"folders skipped because no image is in them: {names}")
  return notes


def _splits(root: Path, images: list[Path]) -> dict[str, Path]:
  """Returns the folder of each split; without splits the root is the training set.

  Raises:
    UserError: the root has split folders and other folders, a split twice, or no training set.
  """
  filled = {root / image.relative_to(root).parts[0] for image in images}
  tops = {top: split_of(top.name) for top in root.iterdir() if top.is_dir()}
  splits = sorted(top for top, kind in tops.items() if kind)
  if not splits:
    return {"train": root}
  others = sorted(filled.difference(splits))
  if others:
    raise UserError(
      f"{root} holds {splits[0].name!r}, which names a split, next to {others[0].name!r}; keep only"
      f" split folders there, or rename {splits[0].name!r} if it is a class or a client."
    )
  folders = {kind: top for top, kind in tops.items() if kind}
  if len(folders) < len(splits):
    raise UserError(
      f"{root} has two folders for one split among {', '.join(top.name for top in splits)}; merge"
      " these two."
    )
  if "train" not in folders:
    raise UserError(
      f"{root} holds {splits[0].name!r} but no training set; add a folder train, or rename"
      f" {splits[0].name!r} if it is a class or a client."
    )
  return folders


def _files(root: Path, images: list[Path], layout: Layout, is_split: bool) -> list[File]:
  """Returns the images under a folder, with the classes and clients that their paths name.

  A folder is rejected if the names of all its subfolders mean splits, because they would be read
  as classes or clients. Directly in a split folder all names may mean splits.
  """
  filled = {folder for image in images for folder in image.parents if root in folder.parents}
  plain = {folder.parent for folder in filled if not split_of(folder.name)}
  files, levels = [], layout.plain.count("/")
  for image in images:
    if root not in image.parents:
      continue
    names = [normalize(name) for name in image.relative_to(root).parts[:-1]]
    if len(names) < levels:
      raise UserError(f"{image} is outside any class folder; move it into one.")
    checked = image.parents[int(is_split) : len(names)]
    if splits := [folder.name for folder in checked if folder.parent not in plain]:
      raise UserError(
        f"{image.parent} is in {splits[0]!r}, which names a split; put split folders at the top,"
        f" as train/{layout.plain} or train/{layout.by_client}, or rename {splits[0]!r}."
      )
    if len(names) > levels + 1:
      raise UserError(f"{image.parent} is nested too deeply; use {layout.text}.")
    label, client = names[-1] if levels else "", names[0] if len(names) > levels else None
    files.append(File(str(image), label, client))
  if not files:
    raise UserError(f"{root} holds no images; fill it as {layout.text}.")
  if len({file.client is None for file in files}) > 1:
    raise UserError(f"{root} mixes {layout.plain} with {layout.by_client}; use one layout.")
  return files
