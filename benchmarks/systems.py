"""The compared systems and their environments."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_MARK = "benchmark_requirements.json"


class System(NamedTuple):
  """A compared system.

  Attributes:
    name: name on the command line.
    title: name in tables.
    module: module in ``benchmarks.peers``.
    variants: names of the variants to measure; '' if there is only one.
    accelerated: names of further variants to measure on accelerators.
    packages: packages whose versions are recorded.
    requirements: requirements for pip, a list per call; empty for the current environment.
    installed: module with which the current environment is enough, or ''.
    dtypes: supported data types.
  """

  name: str
  title: str
  module: str
  variants: tuple[str, ...]
  packages: tuple[str, ...]
  requirements: tuple[tuple[str, ...], ...] = ()
  installed: str = ""
  dtypes: tuple[str, ...] = ("float32",)
  accelerated: tuple[str, ...] = ()


OURS = "ours"
_BOTH = ("float32", "bfloat16")
# Installed first, so that all packages use the same build of it.
_TORCH = ("torch==2.13.0", "numpy==2.4.6")

SYSTEMS = (
  System(
    OURS, "fedjax_norm", "ours", ("",), ("jax", "jaxlib", "flax", "optax", "numpy"), dtypes=_BOTH
  ),
  System(
    "torch_loop",
    "PyTorch loop",
    "torch_loop",
    ("nchw", "channels_last"),
    ("torch", "numpy"),
    (_TORCH,),
    installed="torch",
    dtypes=_BOTH,
    accelerated=("compiled",),
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
  """A system cannot be measured; the message is one line with the reason."""


def environment(system: System, folder: Path, log: Path) -> Path:
  """Returns the interpreter of a system's environment, and makes the environment if necessary.

  Without a network, pip gives up at once.

  Args:
    system: the system.
    folder: folder of all environments.
    log: file for pip's output.

  Raises:
    Unavailable: pip failed.
  """
  if not system.requirements or (system.installed and importlib.util.find_spec(system.installed)):
    return Path(sys.executable)
  home = folder / system.name
  python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
  mark, wanted = home / _MARK, json.dumps(system.requirements)
  if mark.exists() and mark.read_text() == wanted:
    return python
  commands = [[sys.executable, "-m", "venv", str(home)]]
  install = [str(python), "-m", "pip", "--disable-pip-version-check", "--retries=0"]
  install += ["--timeout=15", "install"]
  commands += [[*install, *names] for names in system.requirements]
  with log.open("w") as output:
    for command in commands:
      if subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode:
        output.flush()
        raise Unavailable(f"cannot be installed: {_pip_reason(log.read_text())}")
  mark.write_text(wanted)
  return python


def _pip_reason(text: str) -> str:
  """Returns the reason of pip's failure: its last error, which advice may follow."""
  errors = [line for line in text.splitlines() if line.startswith("ERROR:")]
  return last_line("\n".join(errors) or text)


def versions(system: System, python: Path) -> dict[str, str]:
  """Returns the versions of a system's packages in its environment.

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
  """Returns the last line with text, shortened for a table."""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return lines[-1][:200] if lines else "it said nothing"
