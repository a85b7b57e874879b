import contextlib
import signal
import threading

import pytest

from fedjax_norm.training.signals import Terminated, terminable, uninterrupted


def test_sigterm_is_an_exception_and_the_old_handler_comes_back():
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(Terminated), terminable():
    signal.raise_signal(signal.SIGTERM)
  assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
  ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
@pytest.mark.parametrize("fails", [False, True])
def test_a_block_ends_before_a_signal_acts(number, error, fails):
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


def test_other_threads_have_no_handlers():
  done = []

  def work():
    with terminable(), uninterrupted(), contextlib.suppress(KeyError):
      done.append(signal.getsignal(signal.SIGTERM))

  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert done == [before]
