"""The console script ``fedjax-norm``, and how texts name commands with and without a checkout."""

import re
import sys

import pytest
from helpers.binaries import ROOT

from fedjax_norm.cli import console
from fedjax_norm.cli.commands import compare
from fedjax_norm.invocation import as_started, command, for_script


def run(monkeypatch, *words: str) -> int:
  monkeypatch.setattr(sys, "argv", ["fedjax-norm", *words])
  with pytest.raises(SystemExit) as end:
    console.main()
  return end.value.code


def test_every_binary_of_the_checkout_is_a_command():
  files = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__"}
  assert set(console.names()) == files
  for name in files:
    text = (ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")
    assert f"from fedjax_norm.cli.commands.{name} import launch" in text


def test_without_a_command_all_are_listed_with_their_purpose(monkeypatch, capsys):
  assert run(monkeypatch) == 0
  out = capsys.readouterr().out
  assert re.findall(r"^  (\w+) +[A-Z]", out, re.MULTILINE) == console.names()
  assert "``" not in out


def test_a_command_gets_the_other_words(monkeypatch):
  monkeypatch.setattr(compare, "launch", lambda: sys.exit(7))
  assert run(monkeypatch, "compare", "runs/a", "--output=x") == 7
  assert sys.argv == ["fedjax-norm compare", "runs/a", "--output=x"]


@pytest.mark.parametrize(
  ("word", "message"),
  [
    ("fedav", "error: there is no command 'fedav'; fedjax-norm --help lists the commands.\n"),
    ("--norm=gn", "error: a command comes first; fedjax-norm --help lists the commands.\n"),
  ],
)
def test_a_wrong_command_is_one_sentence(monkeypatch, capsys, word, message):
  assert run(monkeypatch, word) == 2
  assert capsys.readouterr().err == message


def test_texts_name_commands_as_they_were_started(monkeypatch):
  text = "Run python -m experiments.study, or see experiments.run. Both are experiments."
  expected = "Run fedjax-norm study, or see fedjax-norm run. Both are experiments."
  assert for_script(text) == expected
  assert (as_started(text), command("run")) == (text, "python -m experiments.run")  # a checkout
  monkeypatch.setattr(sys, "argv", ["/usr/bin/fedjax-norm study"])
  assert (as_started(text), command("run")) == (expected, "fedjax-norm run")


@pytest.mark.parametrize(
  "name",
  ["experiments.csv", "/data/experiments.old/x", "my.experiments.run", "experiments.run.csv"],
)
def test_names_of_files_are_kept(name):
  assert for_script(f"there is no {name} here") == f"there is no {name} here"
