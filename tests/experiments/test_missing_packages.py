"""The binaries of the extra ``wire`` without its packages."""

import subprocess
import sys

import pytest
from helpers.binaries import PYTHONPATH

from fedjax_norm.cli import app
from fedjax_norm.cli.wire.launch import main_of
from fedjax_norm.cli.wire.options import CertificatesFlags, ClientFlags, ServerFlags

SENTENCE = (
  "error: split learning over a network needs cryptography and grpcio, which this Python does not "
  'have; install the extra with: pip install -e ".[wire]"\n'
)
PROGRAM = """
import runpy, sys
sys.modules.update(grpc=None, cryptography=None)
runpy.run_module("experiments.split_client", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
  ("module", "config"),
  [("client", ClientFlags()), ("server", ServerFlags()), ("certificates", CertificatesFlags())],
)
def test_missing_packages_are_one_sentence(monkeypatch, capsys, module, config):
  for name in ("grpc", "cryptography"):
    monkeypatch.setitem(sys.modules, name, None)
  assert app.guard(lambda: main_of(module)(config)) == 2
  assert capsys.readouterr().err == SENTENCE


@pytest.mark.parametrize(("flags", "code"), [((), 2), (("--help",), 0)])
def test_a_process_without_the_packages_still_prints_its_help(tmp_path, flags, code):
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, *flags],
    env={"PYTHONPATH": PYTHONPATH, "HOME": str(tmp_path)},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (code, SENTENCE if code else "")
  assert ("--client_id" in done.stdout) == (code == 0)
