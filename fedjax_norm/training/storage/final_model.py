"""Saves the final model of a run in the run's folder, and loads it."""

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
  """Writes the variables of a run's final model to ``model.msgpack`` in the run's folder."""
  write_atomic(path / _MODEL, serialization.msgpack_serialize(jax.tree.map(np.asarray, variables)))


def load_run(path: str | os.PathLike) -> tuple[dict[str, Any], Variables]:
  """Loads the options and the final model of a finished run.

  Args:
    path: the run's folder; for several seeds, the folder of one seed.

  Returns:
    (flag name -> value as in ``config.json``, the model's variables as NumPy arrays).

  Raises:
    UserError: the folder contains no finished run, or its files are damaged.
  """
  path = Path(path).expanduser()
  if not (path / CONFIG).is_file():
    raise UserError(f"{path} holds no run because it has no {CONFIG}; pass a run's folder.")
  if not (path / _MODEL).is_file():
    seeds = sorted(folder.parent.name for folder in path.glob(f"seed_*/{_MODEL}"))
    advice = (
      f"it has several seeds, so pass the folder of one seed, such as {path / seeds[0]}"
      if seeds
      else "run it to its end first"
    )
    raise UserError(f"The run in {path} has no {_MODEL}; {advice}.")
  config = read_config(path)
  try:
    return config, serialization.msgpack_restore((path / _MODEL).read_bytes())
  except OSError as error:
    raise UserError(
      f"{path / _MODEL} cannot be read ({error.strerror}); change its permissions."
    ) from error
  except Exception as error:  # the decoder raises many types on damaged bytes
    raise UserError(
      f"{path / _MODEL} is damaged; restore the file, or run in a new --workdir."
    ) from error
