"""The systems that are compared and the environments that they run in."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_MARK = "benchmark_requirements.json"


class System(NamedTuple):
  """One of those compared.

  Attributes:
    name: on the command line.
    title: in tables.
    module: of ``benchmarks.peers``.
    variants: each is measured; '' is the only one there is.
    packages: whose versions are recorded.
    requirements: for pip, a list for each call; none means the environment that this runs in.
    dtypes: what it can compute in.
  """

  name: str
  title: str
  module: str
  variants: tuple[str, ...]
  packages: tuple[str, ...]
  requirements: tuple[tuple[str, ...], ...] = ()
  dtypes: tuple[str, ...] = ("float32",)


OURS = "ours"
_BOTH = ("float32", "bfloat16")
# Before whatever depends on it, so that one build of it is used by all.
_TORCH = ("torch==2.13.0", "numpy==2.4.6")

SYSTEMS = (
  System(
    OURS, "fedjax_norm", "ours", ("",), ("jax", "jaxlib", "flax", "optax", "numpy"), (), _BOTH
  ),
  System(
    "torch_loop",
    "PyTorch loop",
    "torch_loop",
    ("nchw", "channels_last"),
    ("torch", "numpy"),
    (_TORCH,),
    _BOTH,
  ),
  System(
    "pfl",
    "pfl-research",
    "pfl_research",
    ("threads", "processes"),
    ("pfl", "torch", "numpy"),
    (_TORCH, ("pfl[pytorch]==0.6.0", *_TORCH)),
  ),
  System(
    "fedjax",
    "FedJAX",
    "fedjax_jit",
    ("",),
    ("fedjax", "jax", "jaxlib", "dm-haiku", "numpy"),
    (
      (
        "fedjax==0.0.17",
        "jax==0.4.30",
        "jaxlib==0.4.30",
        "dm-haiku==0.0.12",
        "flax==0.8.5",
        "optax==0.2.3",
        "chex==0.1.86",
        "numpy==2.0.2",
      ),
    ),
  ),
  System(
    "flower",
    "Flower",
    "flower_ray",
    ("",),
    ("flwr", "ray", "torch", "numpy"),
    (_TORCH, ("flwr[simulation]==1.41.0", "torch==2.13.0")),
  ),
)


class Unavailable(Exception):
  """A system cannot be measured; the message says why, in a line."""


def environment(system: System, folder: Path, log: Path) -> Path:
  """The interpreter of a system's own environment, which is made unless it is there.

  Args:
    system: whose.
    folder: of all environments.
    log: where pip's words go.

  Raises:
    Unavailable: pip failed.
  """
  if not system.requirements:
    return Path(sys.executable)
  home = folder / system.name
  python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
  mark, wanted = home / _MARK, json.dumps(system.requirements)
  if mark.exists() and mark.read_text() == wanted:
    return python
  commands = [[sys.executable, "-m", "venv", str(home)]]
  install = [str(python), "-m", "pip", "--disable-pip-version-check", "install"]
  commands += [[*install, *names] for names in system.requirements]
  with log.open("w") as output:
    for command in commands:
      if subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode:
        output.flush()
        raise Unavailable(f"cannot be installed: {_pip_reason(log.read_text())}")
  mark.write_text(wanted)
  return python


def _pip_reason(text: str) -> str:
  """Why pip failed: its last error, for it may go on with advice."""
  errors = [line for line in text.splitlines() if line.startswith("ERROR:")]
  return last_line("\n".join(errors) or text)


def versions(system: System, python: Path) -> dict[str, str]:
  """The versions of a system's packages in its environment.

  Raises:
    Unavailable: the environment is damaged.
  """
  code = (
    "import importlib.metadata, json, sys;"
    "print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))"
  )
  command = [str(python), "-c", code, *system.packages]
  damaged = f"has a damaged environment in {python.parents[1]}"
  try:
    done = subprocess.run(command, capture_output=True, text=True)
  except OSError as error:
    raise Unavailable(f"{damaged}: {error.strerror}") from error
  if done.returncode:
    raise Unavailable(f"{damaged}: {last_line(done.stderr)}")
  return json.loads(done.stdout)


def last_line(text: str) -> str:
  """The last line that says something, not too long, for a table."""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return lines[-1][:200] if lines else "it said nothing"
