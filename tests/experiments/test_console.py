"""The console script ``fedjax-norm``, and how texts name commands with and without a checkout."""

import re
import sys

import pytest
from helpers.binaries import ROOT

from fedjax_norm.cli import console
from fedjax_norm.invocation import command, in_this_installation


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


def test_a_command_gets_the_other_words(monkeypatch, capsys):
  assert run(monkeypatch, "compare", "--help") == 0
  assert capsys.readouterr().out.startswith("Compares finished runs: ")
  assert sys.argv == ["fedjax-norm compare", "--help"]


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


def test_texts_name_commands_as_this_installation_has_them():
  text = "Run python -m experiments.study, or see experiments.run. Both are experiments."
  assert in_this_installation(text, in_checkout=True) == text
  expected = "Run fedjax-norm study, or see fedjax-norm run. Both are experiments."
  assert in_this_installation(text, in_checkout=False) == expected
  assert command("study") == "python -m experiments.study"  # the tests run in a checkout
