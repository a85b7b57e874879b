"""What an epoch of SSGD sends, for every norm and model: ``python -m experiments.communication``.

A worker sends its gradient once a step, and under distributed BN two more messages for every norm
layer. Two ways of counting those stand side by side. Ours: the moments forward (count, mean and m2)
and the two sums that the exact gradient needs backward. Paper 000's (sec. 4.2): the mean and the
variance forward, in one exchange after the other, and nothing backward. Both make 2 n + 1 round
trips a step with n norm layers; bytes are those of the messages.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app as absl_app
from absl import flags

from experiments.app import guard, parse_flags
from fedjax_norm import models
from fedjax_norm.errors import UserError
from fedjax_norm.training.communication import epoch_table, table, write

_CLIENTS = flags.DEFINE_integer("clients", 10, "Workers.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Examples of a worker's step.")
_EXAMPLES = flags.DEFINE_integer("examples", 50_000, "Training examples of all workers.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Pixels square.")
_CHANNELS = flags.DEFINE_integer("channels", 3, "Of an image.")
_CLASSES = flags.DEFINE_integer("classes", 10, "Classes.")
_MODELS = flags.DEFINE_list("models", list(models.MODELS), "Which models.")
_OUTPUT = flags.DEFINE_string("output", None, "A CSV file to write besides.")


def main(argv: Sequence[str]) -> None:
  """Prints the table of the models that the flags name."""

  def work() -> None:
    if argv[1:]:
      raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
    for flag in (_CLIENTS, _BATCH_SIZE, _EXAMPLES, _IMAGE_SIZE, _CHANNELS, _CLASSES):
      if flag.value < 1:
        raise UserError(f"--{flag.name} is {flag.value}; it must be at least 1.")
    shape = (_IMAGE_SIZE.value, _IMAGE_SIZE.value, _CHANNELS.value)
    steps = -(-_EXAMPLES.value // (_CLIENTS.value * _BATCH_SIZE.value))
    entries = [
      entry
      for model in _MODELS.value
      for entry in epoch_table(model, shape, _CLASSES.value, _CLIENTS.value, steps)
    ]
    print(table(entries))
    if _OUTPUT.value:
      write(entries, Path(_OUTPUT.value))
      print(f"written: {_OUTPUT.value}")

  sys.exit(guard(work))


if __name__ == "__main__":
  absl_app.run(main, flags_parser=parse_flags)
