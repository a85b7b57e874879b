"""Split learning (paper 003): ``python -m experiments.split --model=lenet5 --cut=conv2``.

Clients hold the first stages of the model and their data, a server the rest; activations, labels
and gradients at the cut are all that crosses. ``python -m experiments.stages`` lists the stages of
a model; ``--tail`` keeps labels with the clients, ``--autoencoder`` learns from examples without
labels, ``--relays`` hides clients from the server.
"""

from collections.abc import Callable

from experiments import app, build_program, training
from experiments.split_flags import SplitFlags, make_split_config
from fedjax_norm.training.program import Program
from fedjax_norm.training.split import make_split
from fedjax_norm.training.task import Task


def prepare(config: SplitFlags) -> Callable[[Task], Program]:
  """Split learning as the flags say."""
  options = build_program.make_mapping(config)
  return build_program.program(
    make_split, make_split_config(config), config, step_by_step=config.step_by_step, **options
  )


def main(config: SplitFlags) -> None:
  """Trains with one seed or several."""
  training.run(config, prepare)


if __name__ == "__main__":
  app.run(main, SplitFlags)
