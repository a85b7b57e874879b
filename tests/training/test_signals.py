import contextlib
import signal
import threading
import time

import pytest

from fedjax_norm.training.terminal.signals import Terminated, terminable, uninterrupted


def test_sigterm_raises_an_exception_and_the_old_handler_is_restored():
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(Terminated), terminable():
    signal.raise_signal(signal.SIGTERM)
  assert signal.getsignal(signal.SIGTERM) == before


BOTH = pytest.mark.parametrize(
  ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)


@pytest.mark.usefixtures("interruptible")
@BOTH
def test_a_signal_is_not_lost_where_errors_are_ignored(number, error):
  """JAX's callback of the garbage collector, for example, runs while programs are compiled."""

  def _xla_gc_callback():
    signal.raise_signal(number)

  class Finalized:
    def __del__(self):
      signal.raise_signal(number)

  def work(call):
    call()
    time.sleep(10)

  for call in (_xla_gc_callback, Finalized):
    with pytest.raises(error) as caught, terminable():
      work(call)
    assert type(caught.value) is error


def test_an_ignored_sigint_stays_ignored():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with terminable():
      signal.raise_signal(signal.SIGINT)
  finally:
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@BOTH
@pytest.mark.parametrize("fails", [False, True])
def test_a_signal_acts_after_the_uninterrupted_block(number, error, fails):
  done = []

  def work():
    signal.raise_signal(number)
    done.append(True)
    if fails:
      raise OSError

  with pytest.raises(error) as caught, terminable(), uninterrupted():
    work()
  assert done
  assert type(caught.value) is error


def test_other_threads_change_no_handlers():
  done = []

  def work():
    with terminable(), uninterrupted(), contextlib.suppress(KeyError):
      done.append(signal.getsignal(signal.SIGTERM))

  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert done == [before]
