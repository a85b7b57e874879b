"""Flags of a small run of server and clients, which run in the process of the test."""

import contextlib
from collections.abc import Iterator
from concurrent import futures

from absl import flags

from fedjax_norm.cli import app
from fedjax_norm.cli.flags import define, parse
from fedjax_norm.cli.wire import client, server
from fedjax_norm.cli.wire.options import ClientFlags, ServerFlags

DATA = ("--data=synthetic:classes=4,train=16,test=8,size=6", "--clients=2")
SHAPE = ("--image_shape=6x6x1", "--classes=4", "--client_names=alice0,alice1")
TRAINING = ("--rounds=4", "--eval_every=2", "--batch_size=4", "--norm=bn", "--cut=conv1")


SERVER, CLIENT = (ServerFlags, server.main), (ClientFlags, client.main)


def party(name: str, *options: str) -> tuple[str, ...]:
  files = (f"--certificate=certificates/{name}.pem", f"--key=certificates/{name}.key")
  return (*files, f"--workdir={name}", *options)


def run(config: type, main, *options: str) -> int:
  """Runs a binary in this process and returns the exit code."""
  values = flags.FlagValues()
  define(config, values)
  values(["binary", *options])
  return app.guard(lambda: main(parse(config, values)))


@contextlib.contextmanager
def together(*runs: tuple) -> Iterator[list[int]]:
  """Runs binaries in threads while the context lasts; the list gets their exit codes after it."""
  with futures.ThreadPoolExecutor(len(runs)) as threads:
    codes: list[int] = []
    jobs = [threads.submit(run, *one) for one in runs]
    yield codes
    codes += [job.result() for job in jobs]
