"""The binaries of this checkout: flags in, a run folder out."""

import signal
import sys

# While ``python -m experiments.NAME`` imports its modules, Ctrl-C ends it without a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
  signal.signal(signal.SIGINT, signal.SIG_DFL)
