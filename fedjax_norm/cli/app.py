"""What every binary does around its own work: flags, devices, folders, errors, the report."""

import contextlib
import dataclasses
import datetime
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from fedjax_norm import nodes
from fedjax_norm.cli import supervisor
from fedjax_norm.cli.choice import Choice
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.flags import define, define_help, parse
from fedjax_norm.errors import DivergedError, LostError, UserError
from fedjax_norm.options import Options
from fedjax_norm.training.placement import processes
from fedjax_norm.training.terminal import signals

# What to do about an error of the system: about a path that cannot be used, and others.
_OF_A_PATH = {
  **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY), "move it away"),
  **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions"),
  errno.ENOENT: "create its folder",
}
_OF_THE_DISK = {
  **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
  errno.EIO: "check the disk",
}

# Of the compilation cache: the least recently used programs go first.
_CACHE_BYTES = 2**30


def run(main: Callable[[Any], None], config: type[Config] = Config) -> None:
  """Runs a binary that computes on devices, on the command line's flags, and exits.

  Args:
    main: the binary's own work.
    config: the class of its options.
  """
  _launch(config, lambda rest: execute(main, config, flags.FLAGS, rest))


def run_chosen(main: Callable[[Any], None], choice: Choice) -> None:
  """Runs a binary whose options depend on one of them (see :func:`run`)."""
  try:
    kind = choice.of(sys.argv[1:])
  except (UserError, flags.Error) as error:
    sys.exit(_say(error, 2))
  run(main, kind)


def run_plain(
  main: Callable[..., None], config: type[Options], *, positional: bool = False
) -> None:
  """Runs a binary that has no run of its own, on the command line's flags, and exits.

  Args:
    main: the binary's own work.
    config: the class of its options.
    positional: whether arguments that are no flags are passed to ``main`` after the options.
  """

  def work(rest: Sequence[str]) -> None:
    if not positional:
      no_more(rest)
    main(parse(config), *rest)

  _launch(config, lambda rest: guard(lambda: work(rest)))


def _launch(config: type[Options], work: Callable[[Sequence[str]], int]) -> None:
  """Exits with what the work returns on the arguments that are no flags."""

  def parsed(argv: Sequence[str]) -> list[str]:
    define_help(config)  # in place of absl's own
    return parse_flags(argv)

  define(config)
  app.run(lambda argv: sys.exit(work(argv[1:])), flags_parser=parsed)


def no_more(rest: Sequence[str]) -> None:
  """Refuses arguments that are no flags.

  Raises:
    UserError: there is one.
  """
  if rest:
    raise UserError(f"unexpected argument {rest[0]!r}; flags are written --name=value.")


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line of any binary; a wrong flag is one sentence and exit code 2."""
  try:
    rest = flags.FLAGS(list(argv))
  except flags.Error as error:
    sys.exit(_say(error, 2))
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # JAX tells of every backend that it does not find
  return rest


def execute(
  main: Callable[[Any], None],
  config: type[Config],
  values: flags.FlagValues,
  rest: Sequence[str] = (),
) -> int:
  """Runs a binary on parsed flags; an error a user can act on is one sentence.

  Args:
    main: the binary's own work.
    config: the dataclass of its flags.
    values: the parsed flags.
    rest: what the command line holds besides.

  Returns:
    The exit code, as of :func:`guard`.
  """
  child = supervisor.is_child()

  def work() -> int | None:
    no_more(rest)
    parsed = parse(config, values)
    place = supervisor.place_of(parsed)
    if place and not child:
      return supervisor.supervise(place, str(parsed.workdir))
    count = _host_devices(parsed)
    nodes.use_host_devices(count)
    keep_compiled(parsed.compilation_cache)
    # What a run's bits depend on belongs to its configuration.
    parsed = dataclasses.replace(parsed, host_devices=count)
    with processes.join(place) if place else contextlib.nullcontext():
      if place:
        processes.check_same_flags({**parsed.saved(), "resume": parsed.resume})
      with _speaking(not place or processes.is_main()) as progress:
        main(dataclasses.replace(parsed, progress=parsed.progress and progress))
    return None

  return supervisor.as_child(lambda: guard(work)) if child else guard(work)


@contextlib.contextmanager
def _speaking(aloud: bool) -> Iterator[bool]:
  """Of several processes the first speaks for all; what goes wrong each of them says."""
  if aloud:
    yield True
    return
  with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence):
    yield False


def guard(work: Callable[[], int | None]) -> int:
  """Runs some work; an error that a user can act on becomes one sentence.

  Returns:
    The exit code: what the work returns, 0 for None, 2 for bad input, 1 for a run that failed, 130
    when interrupted, 143 when terminated.
  """
  try:
    with signals.terminable():
      return work() or 0
  except (DivergedError, LostError) as error:
    return _say(error, 1)
  except UserError as error:
    return _say(error, 2)
  except OSError as error:
    return _say(_about_file(error), 2 if error.errno in _OF_A_PATH else 1)
  except KeyboardInterrupt as stop:
    name, code = ("SIGTERM", 143) if isinstance(stop, signals.Terminated) else ("Ctrl-C", 130)
    saved, *_ = getattr(stop, "__notes__", ["what was saved stays"])
    return _say(f"stopped by {name}; {saved}, and the same --workdir goes on from it.", code)


def _about_file(error: OSError) -> str:
  """What the system refused, and what to do about it."""
  if error.strerror is None or error.filename is None:  # of a pipe or a port, say
    return f"the system refused something: {error.strerror or error}."
  refused = f"{error.filename} cannot be read or written ({error.strerror})"
  if advice := _OF_A_PATH.get(error.errno or 0):
    return f"{refused}; {advice}, or pass another path."
  advice = _OF_THE_DISK.get(error.errno or 0, "see to it")
  return (
    f"{refused}; {advice} and run the same command again. A run goes on from its last checkpoint."
  )


def _say(message: object, code: int) -> int:
  print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
  return code


def keep_compiled(keep: bool) -> None:
  """Lets JAX keep compiled programs in a folder, or not; one that the environment names stays."""
  if not keep:
    jax.config.update("jax_enable_compilation_cache", False)
  if not keep or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    return
  cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
  folder = cache / "fedjax_norm" / "compiled"
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    print(f"note: compiled programs are not kept, for {folder} cannot be made ({error.strerror}).")
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # small ones add up too


def _host_devices(config: Config) -> int:
  """Several single-threaded CPU devices use the cores better than one with several threads."""
  single = config.backend in ("vmap", "scan") or config.one_device
  if config.host_devices is None:
    # Of several processes each has its share of the clients.
    cohort = config.cohort or config.clients or 10
    own = cohort // (config.num_processes or 1)
    return 1 if single else max(1, min(len(os.sched_getaffinity(0)), own))
  if single and config.host_devices > 1:
    raise UserError(
      f"--backend={config.backend} of {config.algorithm} runs on one device; drop --host_devices, "
      "or use shard_map where clients can run side by side."
    )
  return config.host_devices


def new_folder(config: Config) -> Path:
  """The run's folder: ``--workdir``, or a new one named after the time and the run."""
  if config.workdir:
    return Path(config.workdir).expanduser()
  time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  data = config.data.partition(":")[0]
  base = Path("runs") / f"{time}-{config.algorithm}-{data}-{config.model_name}-{config.norm}"
  path, number = base, 2
  while path.exists():
    path, number = base.with_name(f"{base.name}-{number}"), number + 1
  return path
