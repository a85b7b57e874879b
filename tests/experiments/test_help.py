"""``--help`` of every binary."""

import dataclasses
import re
import subprocess
import sys

import pytest
from absl import flags
from helpers.binaries import ROOT
from helpers.flag_table import BINARIES

from fedjax_norm.cli.flags import define, define_help, help_of, shown
from fedjax_norm.options import Options, option


@pytest.mark.parametrize("name", BINARIES)
def test_help_lists_every_option_once(name, capsys):
  kind, values = BINARIES[name].config, flags.FlagValues()
  define(kind, values)
  define_help(kind, "What it does.", values)
  with pytest.raises(SystemExit) as end:
    values([name, "--help"])
  assert end.value.code == 0
  out = capsys.readouterr().out
  listed = re.findall(r"^  --(?:\[no\])?(\w+)", out, re.MULTILINE)
  assert listed == [
    one.name for group in _groups(kind) for one in shown(kind) if one.group == group
  ]
  assert re.findall(r"^([\w -]+):$", out, re.MULTILINE) == _groups(kind)
  assert max(map(len, out.splitlines())) <= 100


def _groups(kind):
  return list(dict.fromkeys(one.group for one in shown(kind)))


@dataclasses.dataclass(frozen=True)
class Small(Options):
  group = "small things"

  kind: str = option("a", "What it is.", choices=("a", "b"))
  size: int | None = option(None, "How large it is.", least=1, needs="kind=a,b")
  on: bool = option(True, "Whether it is on.")
  at: tuple[float, ...] = option((0.5, 2.0), "Where it is.")


def test_the_help_of_an_option():
  assert help_of(Small, "What it does.\n").startswith("""What it does.

small things:
  --kind=<one of the choices>
      What it is. Choices: a, b. Default: a.
  --size=<an integer>
      How large it is. Needs --kind=a or b.
  --[no]on
      Whether it is on. Default: true.
  --at=<numbers separated by commas>
      Where it is. Default: 0.5,2.0.

""")


def test_a_binary_prints_its_help():
  done = subprocess.run(
    [sys.executable, "-m", "experiments.paper", "--help"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, "")
  assert "--table=<a text>" in done.stdout
