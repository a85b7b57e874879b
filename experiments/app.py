"""What every binary does around its own work: flags, devices, folders, errors, the report."""

import datetime
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import app, flags, logging

from experiments.flags import Config, parse
from fedjax_norm import nodes
from fedjax_norm.errors import DivergedError, UserError


def run(main: Callable[[Config], None]) -> None:
  """Parses the flags and runs a binary; an error a user can act on is one sentence.

  Exits with 2 for bad input, 1 for a run that failed, 130 when interrupted.
  """

  def guarded(argv: Sequence[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.WARNING)  # JAX tells of every backend that it does not find
    try:
      if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
      config = parse()
      _start_devices(config)
      main(config)
    except DivergedError as error:
      _fail(error, 1)
    except UserError as error:
      _fail(error, 2)
    except OSError as error:
      _fail(error, 1)
    except KeyboardInterrupt:
      _fail("interrupted; what was saved stays, and the same --workdir goes on from it.", 130)

  app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(list(argv))
  except flags.Error as error:
    _fail(" ".join(str(error).split()), 2)
    raise


def _fail(message: object, code: int) -> None:
  print(f"error: {message}", file=sys.stderr)
  sys.exit(code)


def _start_devices(config: Config) -> None:
  """Several single-threaded CPU devices use the cores better than one with several threads."""
  count = config.host_devices
  if count is None:
    cohort = config.cohort or config.clients or 10
    count = max(1, min(len(os.sched_getaffinity(0)), cohort))
    if config.backend in ("vmap", "scan"):
      count = 1
  nodes.use_host_devices(count)


def new_folder(config: Config, name: str) -> Path:
  """The run's folder: ``--workdir``, or a new one named after the time and the run."""
  if config.workdir:
    return Path(config.workdir)
  time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  data = config.data.partition(":")[0]
  base = Path("runs") / f"{time}-{name}-{data}-{config.model}-{config.norm}"
  path, number = base, 2
  while path.exists():
    path, number = base.with_name(f"{base.name}-{number}"), number + 1
  return path


def describe_machine() -> str:
  """The devices in use, for the start of a run."""
  devices = jax.devices()
  return f"{len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''}"
