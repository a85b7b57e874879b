"""Flags, processes and ports for the tests of the binaries."""

import os
import socket
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Python path of a subprocess: this repository's modules, and no PyTorch.
PYTHONPATH = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "without")))

# Flags of a run that takes seconds: four classes and the model `tiny`.
SMALL = (
  "--data=synthetic:classes=4,train=64,test=32,size=6",
  "--clients=4",
  "--batch_size=8",
  "--rounds=4",
  "--eval_every=2",
  "--noprogress",
  "--host_devices=2",
)


def free_port() -> int:
  """Returns a free port of this machine."""
  with socket.create_server(("127.0.0.1", 0)) as server:
    return server.getsockname()[1]
