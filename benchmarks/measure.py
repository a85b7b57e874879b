"""Measures the systems in turns, each time in a new process."""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.job import Job, Result, answer
from benchmarks.systems import System, last_line

# The variants whose processes share the folder of compiled programs, in a new folder every turn.
FIRST_START, SECOND_START = "first_start", "second_start"
ROOT = Path(__file__).resolve().parent.parent


class Contender(NamedTuple):
  """A variant of a system to be measured.

  Attributes:
    system: the system.
    variant: name of the variant.
    python: interpreter of the environment; None if it could not be made.
    reason: why there is no environment.
  """

  system: System
  variant: str
  python: Path | None
  reason: str = ""


class Measurement(NamedTuple):
  """The measurement of one process.

  Attributes:
    workload: key of the workload.
    system: name of the system.
    variant: variant of the system.
    dtype: data type of the computation.
    repeat: index of the turn.
    result: the times; None if the process failed.
    reason: why the process failed.
  """

  workload: str
  system: str
  variant: str
  dtype: str
  repeat: int
  result: Result | None
  reason: str = ""


def environment_variables(programs: Path | None = None) -> dict[str, str]:
  """Returns the environment of a measured process: the repository's modules, no stored programs.

  Args:
    programs: folder of the compiled programs; None to store none.
  """
  caches = ("JAX_COMPILATION_CACHE", "JAX_ENABLE_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
  variables = {k: v for k, v in os.environ.items() if not k.startswith(caches)}
  variables["PYTHONPATH"] = str(ROOT)
  if programs is None:
    return {**variables, "JAX_ENABLE_COMPILATION_CACHE": "false"}
  # As the binaries do for their user (fedjax_norm/cli/app.py).
  variables["JAX_COMPILATION_CACHE_DIR"] = str(programs)
  variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  return variables


def in_turn(
  key: str,
  job: Job,
  dtypes: Sequence[str],
  contenders: Sequence[Contender],
  repeats: int,
  timeout: float,
  logs: Path,
  say: Callable[[str], None],
) -> Iterator[Measurement]:
  """Measures all contenders in turns, so that drift of the machine affects all of them equally.

  Args:
    key: key of the workload.
    job: the job of every contender, without variant and dtype.
    dtypes: data types; each contender computes in those that it supports.
    contenders: the contenders; one that fails is left out of later turns.
    repeats: number of turns.
    timeout: time limit of a process, in seconds.
    logs: folder for the output of the processes.
    say: function that prints a line of progress.
  """
  failed: set[tuple[str, str, str]] = set()
  for repeat in range(repeats):
    with tempfile.TemporaryDirectory() as programs:
      for contender, dtype in itertools.product(contenders, dtypes):
        who = (contender.system.name, contender.variant, dtype)
        if who in failed or dtype not in contender.system.dtypes:
          continue
        own = dataclasses.replace(job, variant=contender.variant, dtype=dtype)
        name = "_".join(filter(None, (key, *who, str(repeat))))
        outcome = run(contender, own, timeout, logs / f"{name}.log", Path(programs) / dtype)
        if isinstance(outcome, str):
          failed.add(who)
          say(f"{name}: {outcome}")
          yield Measurement(key, *who, repeat, None, outcome)
        else:
          say(f"{name}: {', '.join(f'{seconds:.4g}' for seconds in outcome.samples)} s a round")
          yield Measurement(key, *who, repeat, outcome)


def run(contender: Contender, job: Job, timeout: float, log: Path, programs: Path) -> Result | str:
  """Measures in a separate process; returns the result, or the reason of a failure.

  The two starts store their compiled programs in the folder ``programs``.
  """
  if contender.python is None:
    return contender.reason
  with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "job.json"
    job = dataclasses.replace(job, started=time.time())
    file.write_text(json.dumps(dataclasses.asdict(job)))
    module = f"benchmarks.peers.{contender.system.module}"
    command = [str(contender.python), "-m", module, str(file)]
    stored = programs if job.variant in (FIRST_START, SECOND_START) else None
    returncode, output = _finish(command, environment_variables(stored), timeout)
  log.write_text(output)
  result = answer(output)
  if returncode is None:
    return f"took longer than {timeout:.0f} s"
  if returncode or result is None:
    return f"failed: {last_line(output)}"
  return result


def _finish(
  command: Sequence[str], variables: Mapping[str, str], timeout: float
) -> tuple[int | None, str]:
  """Runs a command, or kills its processes after the time limit; returns (return code, output)."""
  with tempfile.TemporaryFile("w+", errors="replace") as output:
    process = subprocess.Popen(
      command,
      env=variables,
      cwd=ROOT,
      stdout=output,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    )
    returncode: int | None = None
    try:
      returncode = process.wait(timeout)
    except subprocess.TimeoutExpired:
      pass
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    output.seek(0)
    return returncode, output.read()
