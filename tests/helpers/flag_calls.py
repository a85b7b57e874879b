"""Calls a binary up to the point at which it would start its work, to test its flags."""

import contextlib
import functools
import io
import signal

import jax
import jax.numpy as jnp
from absl import flags
from helpers import wire_extra

from fedjax_norm.cli import app
from fedjax_norm.cli.flags import define
from fedjax_norm.models.small import Tiny
from fedjax_norm.norm import Mode

_SECONDS = 10  # time limit of one call; checks take milliseconds


class Small(Tiny):
  """A model that is fast to trace."""

  def stages(self):
    first, *_, head = super().stages()
    return first, head


class Accepted(BaseException):
  """The flags were checked and the program was built; the work would start now."""


def accept(*_, **__):
  raise Accepted


@functools.cache
def define_flags(config):
  """Returns the flags of a binary; to define them takes longer than to parse them."""
  values = flags.FlagValues()
  define(config, values)
  return values


def parse_flags(binary, *arguments):
  """Returns the parsed flags of a call."""
  values = define_flags(binary.config)
  for name in values:
    values[name].unparse()
  values(["binary", *binary.base, *arguments])
  return values


def call(binary, *arguments):
  """Returns the exit code of a call, None if its flags are accepted, and its error output."""
  if binary.needs_wire:
    wire_extra.require()
  err = io.StringIO()
  with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
    try:
      code = binary.main(parse_flags(binary, *arguments), binary.config)
    except flags.Error as error:
      code = app.print_error(error, 2)
    except Accepted:
      code = None
  return code, err.getvalue()


@functools.cache
def _shapes(model, image_shape):
  key = jax.random.key(0)
  return jax.eval_shape(lambda: model.init(key, jnp.zeros((1, *image_shape)), Mode()))


def zeros(model, key, image_shape):
  """Returns variables of a model, which is traced once."""
  return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), _shapes(model, image_shape))


@contextlib.contextmanager
def _in_time(command):
  def late(*_):
    raise AssertionError(f"{command} takes more than {_SECONDS} s")

  before = signal.signal(signal.SIGALRM, late)
  signal.setitimer(signal.ITIMER_REAL, _SECONDS)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def check(binary, *arguments, refused=False):
  """Fails unless the flags are accepted, or refused in one sentence with exit code 2."""
  command = " ".join(arguments)[:200]
  with _in_time(command):
    try:
      code, err = call(binary, *arguments)
    except Exception as error:
      raise AssertionError(f"{command} raises {error!r}") from error
  result = f"{command}: {code}, {err!r}"
  if not code:
    assert not refused, result
    return
  assert code == 2, result
  assert err.startswith("error: "), result
  assert err.count("\n") == 1, result
