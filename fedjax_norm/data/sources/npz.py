"""Data from a NumPy archive."""

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
  """Loads an .npz archive of the arrays in `arrays.REQUIRED` and, if it likes, `arrays.OPTIONAL`.

  Args:
    path: the file.
    image_size: the side to resize every image to; None keeps the size.
    select_local: which training images are kept; None keeps all.
    open_set: whether the test classes may be others than the training ones.
    objective: of ``objectives.OBJECTIVES``, what the targets are for.

  Raises:
    UserError: the file is missing or is no such archive, or an array is missing, superfluous, or
      of the wrong shape, dtype, length or content.
  """
  # A member of an archive is a stream and is read whole; what is not this process's own leaves the
  # memory when this function ends. `npy:` reads nothing of it.
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
    # Opened here, for np.load leaves a file open that turns out to be no archive.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
      check_names(path, archive.files)
      return {name: archive[name] for name in archive.files}
  except UserError:
    raise
  # A plain .npy file comes back as an array, which is no context manager and has no names.
  except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
    raise UserError(
      f"{path} is not an .npz archive of plain arrays; write it with numpy.savez."
    ) from error
