"""Saves a model of a run in the run's folder, and loads it."""

from pathlib import Path

import jax
import numpy as np
from flax import serialization

from fedjax_norm.errors import UserError
from fedjax_norm.training.storage.atomic_files import write_atomic
from fedjax_norm.training.storage.run_folder import read_config
from fedjax_norm.typing import Variables

MODEL = "model.msgpack"
"""File of the final model."""
BEST_MODEL = "model_best.msgpack"
"""File of the model at the round with the best validation value (``--validation_share``)."""


def save_model(path: Path, variables: Variables, name: str = MODEL) -> None:
  """Writes the variables of a model to the file ``name`` in the run's folder."""
  write_atomic(path / name, serialization.msgpack_serialize(jax.tree.map(np.asarray, variables)))


def load_model(path: Path, best: bool = False) -> Variables:
  """Returns the variables of a finished run's model as NumPy arrays.

  Args:
    path: the run's folder; for several seeds, the folder of one seed.
    best: whether to load the model of the round with the best validation value.

  Raises:
    UserError: the folder has no finished run or no such model, or the file is damaged.
  """
  config = read_config(path)
  file = path / (BEST_MODEL if best else MODEL)
  if not file.is_file():
    seeds = sorted(folder.parent.name for folder in path.glob(f"seed_*/{MODEL}"))
    advice = (
      f"it has several seeds, so pass the folder of one seed, such as {path / seeds[0]}"
      if seeds
      else "run it with --validation_share"
      if best and config.get("validation_share") is None
      else "run it to its end first"
    )
    raise UserError(f"The run in {path} has no {file.name}; {advice}.")
  try:
    return serialization.msgpack_restore(file.read_bytes())
  except OSError as error:
    raise UserError(f"{file} cannot be read ({error.strerror}); change its permissions.") from error
  except Exception as error:  # the decoder raises many types on damaged bytes
    raise UserError(f"{file} is damaged; restore the file, or run in a new --workdir.") from error
