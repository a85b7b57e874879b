"""The frame of every command: it reads flags, sets up devices and processes, and reports errors."""

import contextlib
import dataclasses
import datetime
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from fedjax_norm import client_mapping
from fedjax_norm.cli import child_process, presets
from fedjax_norm.cli.compilation_cache import set_compilation_cache
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.flags import define, define_help, parse, shown
from fedjax_norm.cli.method_choice import Choice
from fedjax_norm.errors import DivergedError, LostError, UserError
from fedjax_norm.invocation import as_started
from fedjax_norm.options import Options
from fedjax_norm.training.placement import processes
from fedjax_norm.training.terminal import signals

# Advice by error number of the operating system: wrong paths (exit code 2) and full or bad disks.
_PATH_ADVICE = {
  **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY), "move it away"),
  **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions"),
  errno.ENOENT: "create its folder",
  errno.ENAMETOOLONG: "shorten it",
}
_DISK_ADVICE = {
  **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
  errno.EIO: "check the disk",
}


def run(
  main: Callable[[Any], None],
  options: type[Config] | Choice,
  description: str | None,
  presets_of: str | None = None,
) -> None:
  """Runs a command that computes on devices, with the flags of the command line, and exits.

  Args:
    main: work of the command, (config) -> None.
    options: config class of the command, or the flag that chooses the class.
    description: docstring of the command's module, which ``--help`` prints.
    presets_of: name of the command whose presets it takes; None if it takes no ``--preset``.
  """
  words = sys.argv[1:]
  try:
    if presets_of:
      with quiet_without_reader():
        words = presets.expand(words, options, presets_of)
    config = options.config_for(words) if isinstance(options, Choice) else options
  except (UserError, flags.Error) as error:
    sys.exit(print_error(error, 2))
  end = presets.HELP if presets_of else ""
  _launch(config, lambda rest: execute(main, config, flags.FLAGS, rest), words, description, end)


def run_plain(
  main: Callable[..., None],
  config: type[Options],
  description: str | None,
  *,
  positional: bool = False,
) -> None:
  """Runs a command that needs no devices and no run folder, with the command line, and exits.

  Args:
    main: work of the command, (config, *positional arguments) -> None.
    config: config class of the command.
    description: docstring of the command's module, which ``--help`` prints.
    positional: whether the command takes positional arguments; otherwise they are an error.
  """

  def work(rest: Sequence[str]) -> None:
    if not positional:
      refuse_positional(rest)
    main(parse(config), *rest)

  _launch(config, lambda rest: _guard_child(lambda: work(rest)), sys.argv[1:], description)


def _launch(
  config: type[Options],
  work: Callable[[Sequence[str]], int],
  words: Sequence[str],
  description: str | None,
  help_end: str = "",
) -> None:
  """Parses ``words``, calls ``work`` with the positional arguments, and exits with its result.

  ``description`` and ``help_end`` are the first and the last lines of ``--help``.
  """

  def parse_with_help(argv: Sequence[str]) -> list[str]:
    define_help(config, description or "", end=help_end)  # replaces the help of absl
    return parse_flags(argv)

  define(config)
  argv = [sys.argv[0], *words]
  with quiet_without_reader():
    app.run(lambda argv: sys.exit(work(argv[1:])), argv, flags_parser=parse_with_help)


@contextlib.contextmanager
def quiet_without_reader() -> Iterator[None]:
  """Exits without a traceback if the reader of this process's output has ended, such as ``head``.

  The exit code is that of a program that SIGPIPE ends, 141.
  """
  try:
    try:
      yield
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # At exit, Python writes again what could not be written.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def refuse_positional(rest: Sequence[str]) -> None:
  """Raises UserError if the command line has positional arguments, for a command without them."""
  if rest:
    raise UserError(f"unexpected argument {rest[0]!r}; flags are written --name=value.")


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses the command line of any command and returns its positional arguments.

  For a wrong flag, it prints one sentence and exits with code 2.
  """
  try:
    rest = flags.FLAGS(list(argv))
  except flags.Error as error:
    sys.exit(print_error(error, 2))
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # at INFO, JAX lists the backends that it lacks
  return rest


def execute(
  main: Callable[[Any], None],
  config: type[Config],
  values: flags.FlagValues,
  rest: Sequence[str] = (),
) -> int:
  """Runs a command that computes on devices and returns its exit code (see :func:`guard`).

  Args:
    main: work of the command, (config) -> None.
    config: config class of the command.
    values: parsed flags.
    rest: positional arguments of the command line, which are an error.
  """
  child = child_process.is_child()

  def work() -> int | None:
    refuse_positional(rest)
    parsed = parse(config, values)
    process = child_process.process_info(parsed)
    if process and not child:
      return child_process.supervise(process, str(parsed.workdir))
    count = _host_devices(parsed)
    client_mapping.use_host_devices(count)
    set_compilation_cache(parsed.compilation_cache)
    # Results differ in their last bits between numbers of devices, so config.json records it.
    parsed = dataclasses.replace(parsed, host_devices=count)
    with processes.join(process) if process else contextlib.nullcontext():
      if process:
        processes.check_same_flags({**parsed.saved(), "resume": parsed.resume})
      prints = not process or processes.is_main()  # errors are printed by every process
      with (
        open(os.devnull, "w") as null,
        contextlib.redirect_stdout(sys.stdout if prints else null),
      ):
        main(dataclasses.replace(parsed, progress=parsed.progress and prints))
    return None

  return _guard_child(work, resumes="resume" in {one.name for one in shown(config)})


def _guard_child(work: Callable[[], int | None], resumes: bool = False) -> int:
  """Returns the result of :func:`guard`; in a child process, only if it is 0 (see ``as_child``)."""
  if child_process.is_child():
    return child_process.as_child(lambda: guard(work, resumes))
  return guard(work, resumes)


def guard(work: Callable[[], int | None], resumes: bool = False) -> int:
  """Calls ``work`` and prints an error that a user can act on as one sentence.

  A note that ``work`` adds to an ``OSError`` or ``KeyboardInterrupt`` says what is kept.

  Args:
    work: () -> exit code.
    resumes: whether the same command resumes from a checkpoint.

  Returns:
    The exit code: the result of ``work`` (0 for None), 2 for bad input, 1 for a run that failed,
    130 if Ctrl-C ended the work, 143 if SIGTERM did.

  Raises:
    BrokenPipeError: the reader of this process's output has ended.
  """
  try:
    with signals.terminable():
      return work() or 0
  except (DivergedError, LostError) as error:
    return print_error(error, 1)
  except UserError as error:
    return print_error(error, 2)
  except BrokenPipeError:
    raise
  except OSError as error:
    return print_error(_os_error_text(error, resumes), 2 if error.errno in _PATH_ADVICE else 1)
  except KeyboardInterrupt as stop:
    name, code = ("SIGTERM", 143) if isinstance(stop, signals.Terminated) else ("Ctrl-C", 130)
    return print_error(f"stopped by {name}{'; '.join(['', *_note(stop)])}.", code)


def _note(error: BaseException) -> list[str]:
  return getattr(error, "__notes__", [])[:1]


def _os_error_text(error: OSError, resumes: bool) -> str:
  """Returns the error message: what the operating system refused and what the user can do."""
  if error.strerror is None or error.filename is None:  # for example, a port is in use
    return f"the system refused an operation: {error.strerror or error}."
  refused = f"{error.filename} cannot be read or written ({error.strerror})"
  if advice := _PATH_ADVICE.get(error.errno or 0):
    return f"{refused}; {advice}, or pass another path."
  advice = _DISK_ADVICE.get(error.errno or 0, "correct this")
  if note := _note(error):
    return f"{refused}; {advice}; {note[0]}."
  end = " to resume from the last checkpoint" if resumes else ""
  return f"{refused}; {advice} and run the same command again{end}."


def print_error(message: object, code: int) -> int:
  """Prints an error message on one line of stderr and returns ``code``."""
  text = as_started(" ".join(str(message).split()))
  print(f"error: {text}", file=sys.stderr)
  return code


def _host_devices(config: Config) -> int:
  """Returns the number of single-threaded CPU devices: ``--host_devices`` or its default.

  Several such devices use the CPU's cores better than one device with several threads.
  """
  single = config.backend in ("vmap", "scan") or config.one_device
  if config.host_devices is None:
    cohort = config.cohort or config.clients or 10
    clients_per_process = cohort // (config.num_processes or 1)
    return 1 if single else max(1, min(len(os.sched_getaffinity(0)), clients_per_process))
  if single and config.host_devices > 1:
    raise UserError(
      f"{config.algorithm} with --backend={config.backend} uses one device; drop --host_devices, "
      "or pass --backend=shard_map if the method can train clients in parallel."
    )
  return config.host_devices


def new_folder(config: Config) -> Path:
  """Returns the run's folder: ``--workdir``, or a path ``runs/TIME-...`` that does not exist."""
  if config.workdir:
    return Path(config.workdir).expanduser()
  time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
  data = config.data.partition(":")[0]
  return unused(
    Path("runs") / f"{time}-{config.algorithm}-{data}-{config.model_name}-{config.norm}"
  )


def unused(base: Path) -> Path:
  """Returns a path that does not exist: ``base`` or, if it exists, ``base`` with a number."""
  path, number = base, 2
  while path.exists():
    path, number = base.with_name(f"{base.name}-{number}"), number + 1
  return path
