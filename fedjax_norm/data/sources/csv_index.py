"""Data from a CSV index of image files with their classes, and their countries or clients."""

import csv
import os
from collections import Counter

from fedjax_norm.data.names import normalize, split_of
from fedjax_norm.data.sources.countries import find_country
from fedjax_norm.data.sources.image_files import File, Listing, split
from fedjax_norm.errors import UserError

REGIONS = ("continent", "subcontinent", "country", "column")
"""What a natural client can be: a region of M49, a country, or a value of the clients' column."""

_COLUMNS = {
  "path": ("path", "image", "file"),
  "label": ("label", "class"),
  "country": ("country", "country_code", "iso"),
  "region": ("client", "client_id", "user", "user_id", "site", "site_id", "region"),
  "split": ("split",),
  "value": ("value",),
}

# The share of the images that paper 004 validates on (fig. 2 and 20).
_TEST_SHARE = 0.05

# The region of test images without a client.
_SHARED = ""

Row = dict[str, str]
"""A row of the index: values by the keys of ``_COLUMNS``, and its ``line`` for errors."""


def scan(path: str, seed: int, region: str | None = None, min_region_size: int = 0) -> Listing:
  """Reads an index of images, such as the pictures of paper 004 (sec. 2.2 and app. B).

  The first line names the columns:

  - `path` (or `image`, `file`): path of the image, relative to the index's folder, or absolute.
  - `label` (or `class`): name of the class.
  - optionally `country` (or `country_code`, `iso`): an ISO 3166 alpha-2 or alpha-3 code.
  - optionally `client`, `client_id`, `user`, `user_id`, `site`, `site_id` or `region`: name of the
    client; the first of these columns in this order is used.
  - optionally `value`: the number that regression predicts.
  - optionally `split`: train, test or val in a usual spelling (see ``names.split_of``). If no image
    is in test, val is the test set; otherwise val is not used. Without this column a random
    twentieth of all images, stratified by class, is the test set.

  After the split, images without a region (Antarctica, and empty fields) are left out, as in app.
  B.2, then images of small regions, as in app. B.3, and then test images of a class that lost all
  its training images; ``notes`` counts the images. No image is thus in the training set with
  continents and in the test set with countries. If a column names the clients, test images (by
  `split`) without a client are kept for all clients.

  Args:
    path: the path of the index.
    seed: seed of the split.
    region: what a natural client is, one of ``REGIONS``; None is `column` if the index has such a
      column, otherwise `continent` if the index has countries.
    min_region_size: number of training and test images below which a region is left out.

  Raises:
    UserError: the index is missing or damaged, lacks a column, names an image twice or an unknown
      country; or no training or test image remains.
  """
  if min_region_size < 0:
    raise UserError(f"The smallest size of a region must be at least 0, not {min_region_size}.")
  rows, client_columns = _rows(path)
  notes: tuple[str, ...] = ()
  splits = Counter(row.get("split") for row in rows)
  if splits["test"] and splits["val"]:
    notes = (f"the test set is test; the {splits['val']:,} images of val are not used",)
    rows = [row for row in rows if row["split"] != "val"]
  region = _check_region(path, rows[0], region, min_region_size)
  if region == "column" and len(client_columns) > 1:
    used, *others = client_columns
    notes += (f"the column {used} names the clients; not used: {', '.join(others)}",)
  regions = [_region(path, row, region) for row in rows]
  large: set[str | None] = {None}
  if region:
    large, left_out = _large_regions(path, regions, min_region_size)
    notes += left_out
  files = [
    File(row["path"], row["label"], name, row.get("value"))
    for row, name in zip(rows, regions, strict=True)
  ]
  if "split" not in rows[0]:
    train, test, note = split(files, [file.label for file in files], _TEST_SHARE, seed, path)
    parts, notes = (train, test), (*notes, note)
  else:
    parts = _by_split(path, files, [row["split"] == "train" for row in rows])
  train, test = ([file for file in part if file.client in large] for part in parts)
  lost = {file.label for file in parts[0]}.difference(file.label for file in train)
  if untrained := [file.label for file in test if file.label in lost]:
    names = ", ".join(sorted(set(untrained)))
    notes += (
      f"left out {len(untrained):,} test images of classes without training images: {names}",
    )
    test = [file for file in test if file.label not in lost]
  if not (train and test):
    purpose = "test" if train else "training"
    raise UserError(
      f"{path}: all {purpose} images are of regions that are left out; lower the smallest size"
      " (--min_region_size) or add images."
    )
  return Listing("csv", train, test, notes)


def _by_split(path: str, files: list[File], is_train: list[bool]) -> tuple[list[File], list[File]]:
  """Returns the training and the test images, at least one each."""
  train, test = (
    [file for file, trained in zip(files, is_train, strict=True) if trained == wanted]
    for wanted in (True, False)
  )
  if not (train and test):
    missing = "test or val" if train else "train"
    raise UserError(
      f"{path} has no image with the split {missing}; add such images or drop the column split."
    )
  return train, test


def _rows(path: str) -> tuple[list[Row], list[str]]:
  """Reads and checks the rows of an index; returns them and the columns that name clients."""
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      lines = csv.reader(file, strict=True)
      columns, client_columns = _columns(path, next(lines, []))
      # The csv module returns an empty list for an empty line.
      rows = [_row(path, lines.line_num, cells, columns) for cells in lines if cells]
  except FileNotFoundError:
    raise UserError(f"There is no file {path!r}; give the path of a CSV index of images.") from None
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path} cannot be read as CSV ({error}); save it as UTF-8 text.") from error
  if not rows:
    raise UserError(f"{path} names no image; add one row per image.")
  lines_of: dict[str, str] = {}
  for row in rows:
    first = lines_of.setdefault(row["path"], row["line"])
    if first != row["line"]:
      raise UserError(
        f"{path}, lines {first} and {row['line']} both name the image {row['path']}, which could"
        " be both trained and tested on; remove one of the two lines."
      )
  return rows, client_columns


def _columns(path: str, header: list[str]) -> tuple[list[str | None], list[str]]:
  """Returns the key of each column (or None), and the columns of clients, the used one first."""
  header_names = [name.strip().lower() for name in header]
  client_columns = [name for name in _COLUMNS["region"] if name in header_names]
  kinds = {name: kind for kind, names in _COLUMNS.items() for name in names}
  columns = [None if name in client_columns[1:] else kinds.get(name) for name in header_names]
  for kind, names in _COLUMNS.items():
    if columns.count(kind) > 1:
      raise UserError(f"{path} has several columns for the {kind}; keep one of {', '.join(names)}.")
    if kind in ("path", "label") and kind not in columns:
      raise UserError(
        f"{path} has no column for the {kind}; name one {' or '.join(names)} in its first line,"
        f" which has {', '.join(header) or 'nothing'}."
      )
  return columns, client_columns


def _row(path: str, line: int, cells: list[str], columns: list[str | None]) -> Row:
  if len(cells) != len(columns):
    raise UserError(
      f"{path}, line {line} has {len(cells)} fields, but the first line names {len(columns)};"
      " correct the row or remove it."
    )
  row = {kind: cell.strip() for kind, cell in zip(columns, cells, strict=True) if kind}
  # Paths are not normalized, because file systems distinguish texts that look the same.
  row |= {kind: normalize(cell) for kind, cell in row.items() if kind != "path"}
  for kind in ("path", "label"):
    if not row[kind]:
      raise UserError(f"{path}, line {line} has no {kind}; fill it in or remove the row.")
  row["path"] = os.path.normpath(os.path.join(os.path.dirname(path), row["path"]))
  if "split" in row:
    split_name = split_of(row["split"])
    if split_name is None:
      raise UserError(
        f"{path}, line {line} has the split {row['split']!r}; it must be train, test or val."
      )
    row["split"] = split_name
  return {**row, "line": str(line)}


def _check_region(path: str, row: Row, region: str | None, min_region_size: int) -> str | None:
  """Returns what a region is, `region` or a default; None if the index names no regions."""
  if region is None:
    region = "column" if "region" in row else "continent" if "country" in row else None
    if region is None and min_region_size:
      raise UserError(f"{path} names no regions; add a column country, region or client.")
    return region
  if region not in REGIONS:
    raise UserError(f"There is no region {region!r}; choose one of {', '.join(REGIONS)}.")
  kind = "region" if region == "column" else "country"
  if kind not in row:
    names = " or ".join(_COLUMNS[kind])
    raise UserError(f"{path} has no column {names}, which --region={region} needs; add a column.")
  return region


def _region(path: str, row: Row, region: str | None) -> str | None:
  """Returns the name of a row's region; None if the row has no region and is left out."""
  if region is None:
    return None
  if region == "column":
    shared = row.get("split", "train") != "train"
    return row["region"] or (_SHARED if shared else None)
  if not row["country"]:
    return None
  country = find_country(row["country"])
  if country is None:
    raise UserError(
      f"{path}, line {row['line']} has the country {row['country']!r}, which is not an ISO 3166"
      " alpha-2 or alpha-3 code; correct the code, or delete it to leave the image out."
    )
  return getattr(country, region)


def _large_regions(
  path: str, regions: list[str | None], min_region_size: int
) -> tuple[set[str | None], tuple[str, ...]]:
  """Returns the regions that are large enough, and notes about images of smaller ones."""
  sizes = Counter(filter(None, regions))
  without = regions.count(None)
  small = sorted(name for name, size in sizes.items() if size < min_region_size)
  notes = []
  if without:
    notes.append(f"left out {without:,} of {len(regions):,} images, which have no natural client")
  if small:
    notes.append(
      f"left out {sum(sizes[name] for name in small):,} of {len(regions):,} images, of regions with"
      f" fewer than {min_region_size:,}: {', '.join(small)}"
    )
  if not sizes:
    raise UserError(f"{path}: no image has a region; fill in the column of regions or countries.")
  large = set(sizes).difference(small)
  if not large:
    raise UserError(
      f"{path}: no region has {min_region_size:,} images or more; lower the smallest size"
      " (--min_region_size)."
    )
  return {*large, _SHARED}, tuple(notes)
