"""Data from a folder of .npy files; the images stay on the disk."""

import os

import numpy as np

from fedjax_norm.data.examples import Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.sources.arrays import check_names, make_source
from fedjax_norm.errors import UserError

PARTIAL = ".partial"
"""Ends the name of the folder in which ``experiments.convert`` collects the files."""


def load(
  folder: str,
  select_local: SelectLocal | None = None,
  open_set: bool = False,
  objective: str = "classification",
) -> Source:
  """Maps the .npy files of a folder into memory: one file per array in `arrays.REQUIRED`.

  The arrays in `arrays.OPTIONAL` are read too if present; files of other kinds are ignored. Images
  are uint8 or float32, and each is read from the disk when it is used. Images outside
  `select_local` are not checked. The other arguments are those of ``registry.load``.

  Raises:
    UserError: the folder does not exist, a file is not a plain array, or an array is missing,
      unknown, or of the wrong shape, dtype, layout, length or content.
  """
  if not os.path.isdir(folder):
    if os.path.isdir(folder.rstrip("/") + PARTIAL):
      raise UserError(
        f"The conversion to {folder} is not complete; run its command, python -m"
        " experiments.convert, again to continue it."
      )
    raise UserError(
      f"There is no folder {folder!r}; give the folder of x_train.npy and the other arrays."
    )
  names = [name for name, end in map(os.path.splitext, sorted(os.listdir(folder))) if end == ".npy"]
  check_names(folder, names)
  arrays = {name: _map(os.path.join(folder, f"{name}.npy")) for name in names}
  for name in ("x_train", "x_test"):
    images = arrays[name]
    if images.dtype.kind == "f" and images.dtype != np.float32:
      raise UserError(
        f"{folder}: {name} is {images.dtype}, which cannot stay on the disk; write it as float32 or"
        " uint8."
      )
    if not images.flags.c_contiguous:
      raise UserError(
        f"{folder}: {name} is stored in column-major order; save numpy.ascontiguousarray of it."
      )
  return make_source(
    "npy", folder, arrays, lambda images: lambda ids: images, select_local, open_set, objective
  )


def _map(path: str) -> np.ndarray:
  try:
    return np.lib.format.open_memmap(path, mode="r")
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
  except (ValueError, EOFError) as error:
    raise UserError(
      f"{path} is not a plain array or is truncated ({error}); write it with numpy.save."
    ) from error
