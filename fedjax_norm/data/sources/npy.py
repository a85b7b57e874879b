"""Data from a folder of NumPy files, whose images stay on the disk."""

import os

import numpy as np

from fedjax_norm.data.examples import Source
from fedjax_norm.data.process_local import SelectLocal
from fedjax_norm.data.sources.arrays import check_names, make_source
from fedjax_norm.errors import UserError


def load(
  folder: str,
  select_local: SelectLocal | None = None,
  open_set: bool = False,
  objective: str = "classification",
) -> Source:
  """Maps a folder of .npy files into memory: a file for each array in `arrays.REQUIRED`.

  Those in `arrays.OPTIONAL` may be there too, and so may files of other kinds. Images are uint8 or
  float32, and are read from the disk as they are needed.

  Args:
    folder: of the files `x_train.npy`, `y_train.npy`, ...
    select_local: which training images are checked; the others are mapped like them, but nothing of them is
      read here. None checks all.
    open_set: whether the test classes may be others than the training ones.
    objective: of ``objectives.OBJECTIVES``, what the targets are for.

  Raises:
    UserError: there is no such folder, a file is no plain array, or an array is missing,
      superfluous, or of the wrong shape, dtype, layout, length or content.
  """
  if not os.path.isdir(folder):
    raise UserError(
      f"There is no folder {folder!r}; give the folder of x_train.npy and the others."
    )
  names = [name for name, end in map(os.path.splitext, sorted(os.listdir(folder))) if end == ".npy"]
  check_names(folder, names)
  arrays = {name: _map(os.path.join(folder, f"{name}.npy")) for name in names}
  for name in ("x_train", "x_test"):
    images = arrays[name]
    if images.dtype.kind == "f" and images.dtype != np.float32:
      raise UserError(
        f"{folder}: {name} is {images.dtype}, which stays on the disk as it is; write it as float32"
        " or uint8."
      )
    if not images.flags.c_contiguous:
      raise UserError(
        f"{folder}: {name} lies column after column; write numpy.ascontiguousarray of it."
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
      f"{path} is no plain array or is cut short ({error}); write it with numpy.save."
    ) from error
