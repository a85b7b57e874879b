"""Fixtures that run the binaries, in the process of the test or as processes."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
from types import MappingProxyType
from typing import NamedTuple

import pytest
from absl import flags
from helpers.binaries import ROOT, SMALL

from fedjax_norm import client_mapping
from fedjax_norm.cli import app, methods, train
from fedjax_norm.cli.config import Config
from fedjax_norm.cli.flags import define
from fedjax_norm.cli.method_choice import Choice
from fedjax_norm.cli.wire.options import CertificatesFlags
from fedjax_norm.errors import UserError
from fedjax_norm.models import registry


class Result(NamedTuple):
  code: int
  out: str
  err: str


@pytest.fixture
def one_convolution(monkeypatch, tiny_net):
  """Makes ``--model=tiny`` the smaller model of the tests, which compiles in half the time."""
  entry = registry.MODELS["tiny"]._replace(build=tiny_net)
  monkeypatch.setattr(registry, "MODELS", MappingProxyType({**registry.MODELS, "tiny": entry}))


@pytest.fixture
def _run(capsys, tmp_path, monkeypatch):
  """(main, config class or choice, *flags) -> Result of a binary with ``SMALL`` and these flags.

  With ``--epochs`` in the flags, those of ``SMALL`` that give lengths in rounds are dropped.
  """
  monkeypatch.chdir(tmp_path)

  def run(main, options: type[Config] | Choice, *arguments: str) -> Result:
    values = flags.FlagValues()
    in_epochs = any(argument.startswith("--epochs") for argument in arguments)
    lengths = ("--rounds", "--eval_every") if in_epochs else ()
    small = [flag for flag in SMALL if not flag.startswith(lengths)]
    try:
      chosen = isinstance(options, Choice)
      config = options.config_for(arguments) if chosen else options
      define(config, values)
      rest = values(["binary", *small, *arguments])[1:]
    except (UserError, flags.Error) as error:
      return Result(app.print_error(error, 2), *capsys.readouterr())
    return Result(app.execute(main, config, values, rest), *capsys.readouterr())

  return run


@pytest.fixture
def fedavg_run(_run):
  """(*flags) -> Result of ``experiments.fedavg`` with ``SMALL`` and these flags."""
  return functools.partial(_run, train.run, methods.FEDAVG_CONFIG)


@pytest.fixture
def ssgd_run(_run):
  """(*flags) -> Result of ``experiments.ssgd`` with ``SMALL`` and these flags."""
  return functools.partial(_run, train.run, methods.SSGD_CONFIG)


@pytest.fixture
def decentralized_run(_run):
  """(*flags) -> Result of ``experiments.decentralized`` with ``SMALL`` and these flags."""
  return functools.partial(_run, train.run, methods.DECENTRALIZED)


@pytest.fixture
def asgd_run(_run, monkeypatch):
  """(*flags) -> Result of ``experiments.asgd`` with ``SMALL`` and these flags."""
  # JAX already runs with two devices.
  monkeypatch.setattr(client_mapping, "use_host_devices", lambda count: None)
  return functools.partial(_run, train.run, methods.ASGD_CONFIG, "--host_devices=1")


@pytest.fixture
def made(tmp_path, monkeypatch):
  """The working folder of the test, with certificates."""
  from fedjax_norm.cli.wire import certificates

  monkeypatch.chdir(tmp_path)
  certificates.main(CertificatesFlags(clients="alice0,alice1,carol"))
  return tmp_path


@pytest.fixture
def compiled_once(monkeypatch):
  """Parties with the same network in this process share compiled functions."""
  from fedjax_norm.cli.wire import build

  made, lock, make = {}, threading.Lock(), build.build_network

  def shared(config, *shape):
    with lock:
      key = json.dumps([*build.server_settings(config).items(), *shape])
      made[key] = made.get(key) or make(config, *shape)
      return made[key]

  monkeypatch.setattr(build, "build_network", shared)


@pytest.fixture
def started():
  """(name of a binary, *flags) -> the binary as a process, which is killed after the test."""
  with contextlib.ExitStack() as stack:

    def start(binary: str, *options: str) -> subprocess.Popen:
      process = subprocess.Popen(
        [sys.executable, "-m", f"experiments.{binary}", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
      stack.enter_context(process)
      stack.callback(process.kill)
      return process

    yield start
