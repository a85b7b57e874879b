"""The commands and programs on the pages of the documentation, and how tests run them."""

import re
import sys
from pathlib import Path
from typing import NamedTuple

from helpers import fork_server
from helpers.binaries import ROOT

NEEDS = ("GPU", "data", "network", "several machines", "time", "wire")
PAGES = [
  ROOT / "README.md",
  *sorted(p for p in (ROOT / "docs").glob("*.md") if p.stem != "extending"),
]

# Makes every command of the project take the block's flags for the test after its own, and has it
# run by the server.
_PYTHON = """
{name}() {{
  if [[ "$1" == -m && "$2" == experiments.* ]]; then {python} -IS {server} "$@" $TEST_FLAGS
  else {python} "$@"; fi
}}
"""


class Block(NamedTuple):
  """A block of a page.

  Attributes:
    language: ``bash`` or ``python``.
    text: its lines.
    flags: flags that the test adds to its commands.
    needs: what the machine of the test lacks; None if the block is executed.
  """

  language: str
  text: str
  flags: str
  needs: str | None


def blocks(page: Path) -> list[Block]:
  """Returns the blocks of a page; the comment above a block has its flags or what it needs."""
  found = re.findall(
    r"(?:<!-- (test|needs|test command):? ?(.*?) -->\n+)?```(bash|python)\n(.*?)^```$",
    page.read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
  )
  return [
    Block(
      language,
      text,
      value if kind == "test" else "",
      value if kind == "needs" else "time" if kind == "test command" else None,
    )
    for kind, value, language, text in found
  ]


def script(page: Path, socket: Path) -> str:
  """Returns a shell script of a page's blocks in their order, which stops at the first failure.

  ``socket`` is the one of the server that runs the commands (see ``fork_server``).
  """
  server = f"{Path(fork_server.__file__)} {socket}"
  lines = ["set -euo pipefail"]
  for name in ("python", ".venv/bin/python"):
    lines.append(_PYTHON.format(name=name, python=sys.executable, server=server))
  for block in blocks(page):
    if block.needs is None and block.language == "python":
      lines += [f"{sys.executable} - <<'END_OF_BLOCK'", block.text + "END_OF_BLOCK"]
    elif block.needs is None:
      lines += [f"TEST_FLAGS={block.flags!r}", "set -v", block.text, "set +v"]
  return "\n".join(lines)


def commands(page: Path) -> list[list[str]]:
  """Returns the words after ``python -m experiments.`` of all commands of a page, in any block."""
  result = []
  for block in blocks(page):
    text = block.text.replace("\\\n", " ")
    for match in re.finditer(r"-m experiments\.([^\n|&;#)]*)", text):
      result.append(match[1].replace("`", "").split())
  return result
