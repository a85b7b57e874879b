"""The console script: ``fedjax-norm study --data=folder:DIR``.

Each module of ``cli/commands`` is a command; its docstring is the command's description.
"""

import ast
import importlib
import pkgutil
import signal
import sys

from fedjax_norm.cli import app, commands
from fedjax_norm.invocation import SCRIPT, for_script


def main() -> None:
  """Runs the command that the first argument names, and exits; lists the commands without one."""
  name = sys.argv[1] if len(sys.argv) > 1 else "help"
  if name in ("help", "--help", "-h"):
    with app.quiet_without_reader():
      print(overview())
    sys.exit(0)
  if name not in names():
    known = "a command comes first" if name.startswith("-") else f"there is no command {name!r}"
    sys.exit(app.print_error(f"{known}; {SCRIPT} --help lists the commands.", 2))
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports without a traceback
  sys.argv[:2] = [f"{SCRIPT} {name}"]
  importlib.import_module(f"{commands.__name__}.{name}").launch()


def names() -> list[str]:
  """Returns the names of all commands, in alphabetical order."""
  return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))


def overview() -> str:
  """Returns a line for each command, read from its file, because imports would take seconds."""
  width = max(map(len, names()))
  lines = [f"  {name:{width}}  {_purpose(name)}" for name in names()]
  return "\n".join(
    [
      f"{SCRIPT} COMMAND [--FLAG=VALUE ...]",
      "",
      *lines,
      "",
      f"{SCRIPT} COMMAND --help lists the flags of a command.",
    ]
  )


def _purpose(name: str) -> str:
  """Returns the first line of a command's docstring, without the example of a command line."""
  spec = importlib.util.find_spec(f"{commands.__name__}.{name}")
  assert spec
  assert spec.origin
  with open(spec.origin, encoding="utf-8") as file:
    docstring = ast.get_docstring(ast.parse(file.read())) or ""
  return for_script(docstring.split("\n")[0].partition(": ``")[0].rstrip("."))
