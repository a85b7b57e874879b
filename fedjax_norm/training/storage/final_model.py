"""The model that a finished run leaves in its folder, for whoever works with it later."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.atomic_files import write_atomic
from fedjax_norm.training.storage.run_folder import CONFIG, read_config
from fedjax_norm.typing import Variables

_MODEL = "model.msgpack"


def save_model(path: Path, variables: Variables) -> None:
  """Writes a run's final model into its folder, whole or not at all.

  Args:
    path: the folder, which exists.
    variables: arrays of the host or the device.
  """
  write_atomic(path / _MODEL, serialization.msgpack_serialize(jax.tree.map(np.asarray, variables)))


def load_run(path: str | os.PathLike) -> tuple[dict[str, Any], Variables]:
  """What a finished run was told and the model that it ended with.

  Args:
    path: the run's folder, of one seed.

  Returns:
    (flag name to value, as in ``config.json``; the variables, NumPy arrays).

  Raises:
    UserError: the folder holds no finished run, or one whose files are damaged.
  """
  path = Path(path).expanduser()
  if not (path / CONFIG).is_file():
    raise UserError(f"{path} holds no run, for it has no {CONFIG}; pass the folder of a run.")
  if not (path / _MODEL).is_file():
    seeds = sorted(folder.parent.name for folder in path.glob(f"seed_*/{_MODEL}"))
    advice = (
      f"it is of several seeds, so pass one of theirs, such as {path / seeds[0]}"
      if seeds
      else "run it to its end first"
    )
    raise UserError(f"The run in {path} has no {_MODEL}; {advice}.")
  config = read_config(path)
  try:
    return config, serialization.msgpack_restore((path / _MODEL).read_bytes())
  except OSError as error:
    raise UserError(f"The run in {path} cannot be read ({error.strerror}).") from error
  except Exception as error:  # whatever the decoders raise on bytes that are not theirs
    raise UserError(
      f"The run in {path} is damaged: its {CONFIG} or {_MODEL} does not read; restore it."
    ) from error
