"""Measures the library and its peers side by side; see benchmarks/README.md.

The first use downloads the peers' packages, several GB; ``--peers=`` measures without peers.
"""

import dataclasses
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import measure, picture, report, systems
from benchmarks.measure import Contender, Measurement
from benchmarks.systems import OURS, SYSTEMS, System, Unavailable
from benchmarks.workloads import LETTERS, Workload, table
from fedjax_norm.cli.app import guard, parse_flags, refuse_positional
from fedjax_norm.data.sources import tfds
from fedjax_norm.errors import UserError
from fedjax_norm.plots import base

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_PEERS = tuple(system.name for system in SYSTEMS if system.name != OURS)
# Time limit of a process in seconds, and turns of every system.
_TIMEOUT = {"full": 900.0, "smoke": 300.0}
_REPEATS = {"full": 3, "smoke": 1}


@dataclasses.dataclass(frozen=True)
class Options:
  """The options of the command.

  Attributes:
    workloads: letters of the workloads, from ``LETTERS``.
    peers: names of the systems to compare with.
    repeats: turns of every system; None for the default of the scale.
    scale: ``full`` or ``smoke``.
    accelerator: whether to measure what is measured on an accelerator; None asks JAX.
    output: folder of the report and of what the processes print.
    env_dir: folder of the peers' environments.
    data_dir: folder of prepared TFDS data sets, or None.
  """

  workloads: Sequence[str] = tuple(LETTERS)
  peers: Sequence[str] = _PEERS
  repeats: int | None = None
  scale: str = "full"
  accelerator: bool | None = None
  output: str = "benchmarks/results"
  env_dir: str = str(_CACHE / "fedjax_norm" / "benchmarks")
  data_dir: str | None = None


def define_flags() -> None:
  """Defines the options as flags."""
  default = Options()
  letters = "; ".join(f"{letter}: {what}" for letter, what in LETTERS.items())
  flags.DEFINE_list("workloads", list(default.workloads), letters)
  flags.DEFINE_list(
    "peers",
    list(default.peers),
    "Whom to compare with, downloaded (GBs) on first use; empty for nobody.",
  )
  flags.DEFINE_integer("repeats", default.repeats, "Turns of every system; 3, or 1 for smoke.")
  flags.DEFINE_enum("scale", default.scale, list(_TIMEOUT), "smoke only shows that all works.")
  flags.DEFINE_boolean(
    "accelerator",
    default.accelerator,
    "Measure what is measured on an accelerator: a larger d, bfloat16, torch.compile; by default "
    "if JAX has one.",
  )
  flags.DEFINE_string("output", default.output, "The folder of the report and the logs.")
  flags.DEFINE_string("env_dir", default.env_dir, "The folder of the peers' environments.")
  flags.DEFINE_string(
    "data_dir", default.data_dir, "Prepared TFDS sets with CIFAR-10; else images are artificial."
  )


def say(line: str) -> None:
  """Prints a line and flushes it."""
  print(line, flush=True)


def main(options: Options) -> None:
  """Installs the peers, exports the arrays, measures and writes the report.

  Raises:
    UserError: a workload or peer is unknown, the number of turns is invalid, the data folder has
      no CIFAR-10, or a step before the measurements failed.
  """
  for given, known in ((options.workloads, LETTERS), (options.peers, _PEERS)):
    unknown = [name for name in given if name not in known]
    if unknown:
      raise UserError(f"there is no {unknown[0]!r}; choose among {', '.join(known)}.")
    if len(set(given)) < len(given):
      raise UserError(f"{','.join(given)} names one twice; name each once.")
  repeats = _REPEATS[options.scale] if options.repeats is None else options.repeats
  if repeats < 1 or not options.workloads:
    raise UserError("there is nothing to measure; give a workload and at least one repeat.")
  if options.data_dir and "cifar10" not in tfds.prepared(options.data_dir):
    raise UserError(
      f"{options.data_dir!r} holds no prepared cifar10; prepare it there or drop --data_dir."
    )
  output, env_dir = Path(options.output), Path(options.env_dir).expanduser().absolute()
  logs = output / "logs"
  for folder in (logs, env_dir):
    folder.mkdir(parents=True, exist_ok=True)

  machine = describe_machine()
  rates = machine["ceiling"]["gflops"].items()
  say(f"dense matrix products: {', '.join(f'{name} {rate:.0f} GFLOP/s' for name, rate in rates)}")
  wanted = [system for system in SYSTEMS if system.name in (OURS, *options.peers)]
  pythons = install(wanted, env_dir, logs, machine)
  accelerator = options.accelerator
  if accelerator is None:
    accelerator = machine["ceiling"]["platform"] != "cpu"
  workloads = table("".join(options.workloads), options.scale, accelerator)
  measurements: list[Measurement] = []
  with tempfile.TemporaryDirectory() as temporary:
    for done, one in enumerate(workloads, 1):
      say(f"({one.key}) {one.title}")
      folder = Path(temporary) / one.key
      folder.mkdir()
      export(one, folder, options.data_dir, Path(temporary) / "compiled")
      for measurement in measure.in_turn(
        one.key,
        one.job(str(folder), machine["threads"]),
        one.dtypes,
        contenders(one, pythons, accelerator),
        repeats,
        _TIMEOUT[options.scale],
        logs,
        say,
      ):
        measurements.append(measurement)
        write(output, workloads[:done], measurements, machine)
      shutil.rmtree(folder)
  draw(output, workloads, measurements)
  say(f"written to {output}; what the processes printed is in its folder {logs.name}")


def describe_machine() -> dict[str, Any]:
  """Describes the machine and measures its matrix multiplication."""
  threads = len(os.sched_getaffinity(0))
  ceiling = _ceiling(threads)
  if ceiling["platform"] == "cpu" and threads > 1:
    ceiling["gflops"]["float32, one thread"] = _ceiling(1)["gflops"]["float32"]
  return {
    "date": datetime.date.today().isoformat(),
    "processor": _processor(),
    "threads": threads,
    "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
    "system": platform.system(),
    "python": platform.python_version(),
    "ceiling": ceiling,
    "versions": {},
  }


def _ceiling(threads: int) -> dict[str, Any]:
  # Before the imports of NumPy and JAX, which count the cores.
  cores = sorted(os.sched_getaffinity(0))[:threads]
  code = f"import os, runpy; os.sched_setaffinity(0, {cores}); "
  code += "runpy.run_module('benchmarks.ceiling', run_name='__main__')"
  printed = _run(
    ["-c", code], measure.environment_variables(), "the machine's speed cannot be measured"
  )
  return json.loads(printed.splitlines()[-1])


def _run(arguments: Sequence[str], variables: Mapping[str, str], failure: str) -> str:
  """Runs Python in the repository's root and returns its output; a failure is a UserError."""
  done = subprocess.run(
    [sys.executable, *arguments], env=variables, cwd=measure.ROOT, capture_output=True, text=True
  )
  if done.returncode:
    raise UserError(f"{failure}: {systems.last_line(done.stderr)}")
  return done.stdout


def _processor() -> str:
  for line in Path("/proc/cpuinfo").read_text().splitlines():
    if line.startswith("model name"):
      return line.partition(":")[2].strip()
  return platform.machine()


def install(
  wanted: Sequence[System], env_dir: Path, logs: Path, machine: dict[str, Any]
) -> dict[str, Path | Unavailable]:
  """Returns the interpreter of every system, or why it has none; adds versions to ``machine``."""
  pythons: dict[str, Path | Unavailable] = {}
  for system in wanted:
    say(f"environment of {system.name}")
    try:
      python = systems.environment(system, env_dir, logs / f"install_{system.name}.log")
      pythons[system.name] = python
      machine["versions"][system.name] = systems.versions(system, python)
    except Unavailable as error:
      pythons[system.name] = error
      machine["versions"][system.name] = str(error)
      say(f"{system.name} {error}")
  return pythons


def contenders(
  one: Workload, pythons: dict[str, Path | Unavailable], accelerator: bool
) -> list[Contender]:
  """Returns all variants of the systems of a workload."""
  found = []
  for system in SYSTEMS:
    python = pythons.get(system.name)
    if python is None:
      continue
    all_variants = system.variants + system.accelerated
    for name, variant in one.contenders or [(system.name, variant) for variant in all_variants]:
      if name != system.name or (variant in system.accelerated and not accelerator):
        continue
      if isinstance(python, Unavailable):
        found.append(Contender(system, variant, None, str(python)))
      else:
        found.append(Contender(system, variant, python))
  return found


def export(one: Workload, folder: Path, data_dir: str | None, compiled: Path) -> None:
  """Writes the arrays of a workload in a separate process; ``compiled`` keeps its programs."""
  command = ["-m", "benchmarks.export", json.dumps(one._asdict()), str(folder)]
  command += [str(Path(data_dir).absolute())] if data_dir else []
  environment = {
    **os.environ,
    "PYTHONPATH": str(measure.ROOT),
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(compiled),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  _run(command, environment, f"the data of ({one.key}) cannot be exported")


def write(
  output: Path,
  workloads: Sequence[Workload],
  measurements: Sequence[Measurement],
  machine: dict[str, Any],
) -> None:
  """Writes the tables of all measurements so far."""
  (output / "results.md").write_text(report.markdown(workloads, measurements, machine))
  (output / "results.csv").write_text(report.all_as_csv(workloads, measurements))
  (output / "machine.json").write_text(json.dumps(machine, indent=2) + "\n")


def draw(output: Path, workloads: Sequence[Workload], measurements: Sequence[Measurement]) -> None:
  """Draws and saves the picture of all workloads but the starts, if there are any."""
  drawn = [one for one in workloads if one.key[0] != "e"]
  by_key = {
    one.key: report.summarize([m for m in measurements if m.workload == one.key]) for one in drawn
  }
  if drawn:
    base.save(picture.draw(drawn, by_key), output / "results.png")


def _from_flags(argv: Sequence[str]) -> None:
  names = [field.name for field in dataclasses.fields(Options)]
  values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}

  def work() -> None:
    refuse_positional(argv[1:])
    main(Options(**values))

  sys.exit(guard(work))


if __name__ == "__main__":
  define_flags()
  app.run(_from_flags, flags_parser=parse_flags)
