"""What the tests of the binaries share."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Of a process of its own: this repository's modules, and no PyTorch.
PYTHONPATH = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "without")))

# Four classes that `tiny` learns in seconds.
SMALL = (
  "--data=synthetic:classes=4,train=64,test=32,size=6",
  "--clients=4",
  "--batch_size=8",
  "--rounds=4",
  "--eval_every=2",
  "--noprogress",
  "--host_devices=2",
)


def run_process(folder: Path, *options: str, environment: Mapping[str, str] = os.environ) -> str:
  """What ``experiments.fedavg`` prints in a process of its own, with ``SMALL`` and these flags."""
  done = subprocess.run(
    [sys.executable, "-m", "experiments.fedavg", *SMALL, *options],
    env={**environment, "PYTHONPATH": PYTHONPATH},
    cwd=folder,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def free_port() -> int:
  """A port of this machine that nobody listens at."""
  with socket.create_server(("127.0.0.1", 0)) as server:
    return server.getsockname()[1]
