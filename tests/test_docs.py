"""The commands and programs on the pages run, and those that cannot run here have valid flags."""

import os
import subprocess
import sys
import time

import pytest
from helpers import fork_server, pages
from helpers.binaries import PYTHONPATH
from helpers.flag_table import BINARIES

from fedjax_norm.cli import console
from fedjax_norm.cli.commands import study
from fedjax_norm.cli.flags import shown

# Pages whose commands always run with the long tests.
FIRST = ("README", "get_started", "your_data", "choosing_a_norm", "split_learning", "api")
# Flags that every command has, or that choose which others there are.
COMMON = {"preset", "flagfile", "help", "method", "algorithm"}


def environment() -> dict[str, str]:
  return {**os.environ, "PYTHONPATH": PYTHONPATH}


def known_flags(command: str) -> set[str]:
  """Returns the names of the flags of a command, with any of its methods."""
  kinds = [one.config for name, one in BINARIES.items() if name.split(":")[0] == command]
  if command == "study":
    kinds.append(study.FLAGS)
  return COMMON | {option.name for kind in kinds for option in shown(kind)}


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_commands_and_flags_exist_and_what_is_not_executed_has_a_reason(page):
  for block in pages.blocks(page):
    if block.needs is not None:
      assert set(block.needs.split(" and ")) <= set(pages.NEEDS)
  for command, *words in pages.commands(page):
    assert command in console.names()
    for word in words:
      if word.startswith("--") and any(name.split(":")[0] == command for name in BINARIES):
        name = word.removeprefix("--").partition("=")[0]
        assert {name, name.removeprefix("no")} & known_flags(command), f"{command} {word}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  """The socket of a server that runs commands (see ``fork_server``)."""
  path = tmp_path_factory.mktemp("server") / "socket"
  process = subprocess.Popen([sys.executable, fork_server.__file__, str(path)], env=environment())
  while not path.exists():
    assert process.poll() is None
    time.sleep(0.1)
  yield path
  process.kill()
  process.wait()


@pytest.mark.long
@pytest.mark.parametrize(
  "page",
  [p for p in pages.PAGES if any(b.needs is None for b in pages.blocks(p))],
  ids=lambda page: page.stem,
)
def test_the_commands_of_a_page_run(page, server, tmp_path):
  if page.stem not in FIRST and "RUN_PAGES" not in os.environ:
    pytest.skip("the commands of all pages take minutes: set RUN_PAGES=1")
  done = subprocess.run(
    ["bash", "-c", pages.script(page, server)],
    cwd=tmp_path,
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout[-4000:]
