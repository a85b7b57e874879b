"""Data from a folder of image files."""

from pathlib import Path

from fedjax_norm.data.files import File, Listing, split
from fedjax_norm.errors import UserError

_SUFFIXES = frozenset(
  {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_TEST_SHARE = 0.2


def scan(path: str, seed: int) -> Listing:
  """Finds the images of a folder.

  Three layouts are understood: `CLASS/image`; `CLIENT/CLASS/image`, where the clients are a natural
  partition; and `train/` with `test/` or `val/`, each in one of the first two. Without `test/` and
  `val/` a seeded fifth of the images, stratified by class and client, is the test set.

  Args:
    path: the folder.
    seed: the chance in the split.

  Raises:
    UserError: the folder is missing or empty, or has another layout.
  """
  root = Path(path)
  if not root.is_dir():
    raise UserError(f"There is no folder {path!r}; give the path of a folder of images.")
  held_out = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
  if held_out is not None and (root / "train").is_dir():
    return Listing("folder", _scan(root / "train"), _scan(held_out))
  files = _scan(root)
  strata = [f"{file.client}/{file.label}" for file in files]
  return Listing("folder", *split(files, strata, _TEST_SHARE, seed, path))


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
  """The subfolders and the images of a folder, sorted; hidden ones do not count."""
  children = sorted(child for child in folder.iterdir() if not child.name.startswith("."))
  images = [c for c in children if c.suffix.lower() in _SUFFIXES and c.is_file()]
  return [c for c in children if c.is_dir()], images


def _scan(root: Path) -> list[File]:
  """Finds the images under a folder of classes or of clients with classes."""
  files = []
  top, loose = _entries(root)
  if loose:
    raise UserError(f"{loose[0]} lies outside any class folder; move it into one.")
  for first in top:
    nested, images = _entries(first)
    files += [File(str(image), first.name, None) for image in images]
    for second in nested:
      deeper, images = _entries(second)
      if deeper:
        raise UserError(f"{deeper[0]} is nested too deep; use CLASS/image or CLIENT/CLASS/image.")
      files += [File(str(image), second.name, first.name) for image in images]
  if not files:
    raise UserError(f"{root} holds no images; fill it as CLASS/image or CLIENT/CLASS/image.")
  if len({file.client is None for file in files}) > 1:
    raise UserError(f"{root} mixes CLASS/image with CLIENT/CLASS/image; use one layout.")
  return files
