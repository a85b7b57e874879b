"""Data from a NumPy archive (.npz)."""

import os
import zipfile

import numpy as np

from fedjax_norm.data import image_decoding
from fedjax_norm.data.examples import Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.sources.arrays import check_names, make_source
from fedjax_norm.errors import UserError


def load(
  path: str,
  image_size: int | None = None,
  select_local: SelectLocal | None = None,
  open_set: bool = False,
  objective: str = "classification",
) -> Source:
  """Loads an .npz archive of the arrays in `arrays.REQUIRED`, and optionally `arrays.OPTIONAL`.

  ``path`` is the archive; the other arguments are those of ``registry.load``.

  Raises:
    UserError: the file is missing or not such an archive, or an array is missing, unknown, or of
      the wrong shape, dtype, length or content.
  """
  # An array of an archive is read whole; the images that this process does not need are freed when
  # this function returns. `npy:` does not read them at all.
  return make_source(
    "npz",
    path,
    _read(path),
    lambda images: image_decoding.reader(images, image_size),
    select_local,
    open_set,
    objective,
    lambda classes: image_decoding.resize_classes(classes, image_size),
  )


def _read(path: str) -> dict[str, np.ndarray]:
  if not os.path.isfile(path):
    raise UserError(f"There is no file {path!r}; give the path of an .npz archive.")
  try:
    # Opened here because np.load leaves a file open that is not an archive.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
      check_names(path, archive.files)
      return {name: archive[name] for name in archive.files}
  except UserError:
    raise
  # np.load returns an array for a plain .npy file: no context manager, and without `files`.
  except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
    raise UserError(
      f"{path} is not an .npz archive of plain arrays; write it with numpy.savez."
    ) from error
