"""Runs the systems one after another, again and again, each time in a new process."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.job import Job, Result, answer
from benchmarks.systems import System, last_line

ROOT = Path(__file__).resolve().parent.parent


class Contender(NamedTuple):
  """A system in one of its variants.

  Attributes:
    system: which.
    variant: of its variants.
    python: the interpreter of its environment, None if there is no environment.
    reason: why there is none.
  """

  system: System
  variant: str
  python: Path | None
  reason: str = ""


class Measurement(NamedTuple):
  """One process.

  Attributes:
    workload: the key of what was measured.
    system: its name.
    variant: of the system.
    dtype: what was computed in.
    repeat: the number of the turn.
    result: what came out, None if it failed.
    reason: why it failed.
  """

  workload: str
  system: str
  variant: str
  dtype: str
  repeat: int
  result: Result | None
  reason: str = ""


def environment_variables() -> dict[str, str]:
  """For every measured process: this repository's modules, and no compiled program from before."""
  variables = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
  return {**variables, "PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "false"}


def in_turn(
  key: str,
  job: Job,
  dtypes: Sequence[str],
  contenders: Sequence[Contender],
  repeats: int,
  timeout: float,
  logs: Path,
  say: Callable[[str], None],
) -> list[Measurement]:
  """Measures all contenders, then all of them again, so that drift hits them alike.

  Args:
    key: of the workload.
    job: what each is told, beside its variant and dtype.
    dtypes: each contender computes in those of them that it can.
    contenders: who; one that fails is left out of later turns.
    repeats: how many turns.
    timeout: of a process, in seconds.
    logs: a folder for what the processes print.
    say: tells what happens, a line at a time.
  """
  found: list[Measurement] = []
  failed: set[tuple[str, str, str]] = set()
  for repeat in range(repeats):
    for contender in contenders:
      for dtype in (name for name in dtypes if name in contender.system.dtypes):
        who = (contender.system.name, contender.variant, dtype)
        if who in failed:
          continue
        own = dataclasses.replace(job, variant=contender.variant, dtype=dtype)
        name = "_".join(filter(None, (key, *who, str(repeat))))
        outcome = run(contender, own, timeout, logs / f"{name}.log")
        if isinstance(outcome, str):
          failed.add(who)
          found.append(Measurement(key, *who, repeat, None, outcome))
          say(f"{name}: {outcome}")
        else:
          found.append(Measurement(key, *who, repeat, outcome))
          say(f"{name}: {', '.join(f'{seconds:.4g}' for seconds in outcome.samples)} s a round")
  return found


def run(contender: Contender, job: Job, timeout: float, log: Path) -> Result | str:
  """Measures in a process of its own; the result, or why there is none."""
  if contender.python is None:
    return contender.reason
  with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "job.json"
    job = dataclasses.replace(job, started=time.time())
    file.write_text(json.dumps(dataclasses.asdict(job)))
    module = f"benchmarks.peers.{contender.system.module}"
    command = [str(contender.python), "-m", module, str(file)]
    returncode, output = _finish(command, environment_variables(), timeout)
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
  """Runs a command to its end, or ends it and what it started; (its return code, its output)."""
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
