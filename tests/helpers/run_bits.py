"""Reads the results of a run for bitwise comparison, without durations."""

import csv
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp


def read(folder: Path | str) -> list[dict[str, str]]:
  """Returns the rows of ``metrics.csv``."""
  with open(Path(folder) / "metrics.csv", newline="") as file:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def parameters(folder: Path) -> dict[str, bytes]:
  """Returns the bytes of each array of the newest checkpoint."""
  rounds = (int(f.name) for f in (folder / "checkpoints").iterdir() if f.name.isdigit())
  newest = folder / "checkpoints" / str(max(rounds))
  with ocp.StandardCheckpointer() as reader:
    tree = reader.restore((newest / "arrays").absolute())
  return {k: np.asarray(v).tobytes() for k, v in tree.items() if "seconds" not in k}
