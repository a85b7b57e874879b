"""Measures learning rates side by side against one by one: ``python -m benchmarks.lanes``.

Runs of five learning rates train on random images of CIFAR-10's size, with vmap over ten clients:
as ``training.lanes`` trains them, and as single runs that share a compiled program. The table has
the median time of a round of all rates, and the time of the first call, which compiles. The default
models are for an accelerator; ``python -m benchmarks.lanes tiny`` shows on a CPU that it works.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import fedjax_norm as fn
from fedjax_norm.data.examples import Examples, Source
from fedjax_norm.training.lanes import can_share, fitting_lanes, train_lanes
from fedjax_norm.training.loop import train
from fedjax_norm.training.run import initial_variables

_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
_CLIENTS, _STEPS, _ROUNDS, _SAMPLES = 10, 5, 10, 3
# (model, image shape, batch size)
_CASES = {
  "tiny": ("tiny", (8, 8, 1), 32),
  "cnn": ("cnn", (32, 32, 3), 32),
  "resnet20": ("resnet20", (32, 32, 3), 32),
}


def runs(model_name: str, shape: tuple[int, int, int], batch_size: int) -> tuple[Any, ...]:
  """Returns (task, program, options of the run of each rate)."""
  rng = np.random.default_rng(0)
  count = _CLIENTS * batch_size * 2

  def examples(count: int) -> Examples:
    labels = (np.arange(count) % 10).astype(np.int32)
    return Examples(rng.integers(0, 256, (count, *shape), np.uint8), labels)

  classes = tuple(map(str, range(10)))
  source = Source("random", examples(count), examples(100), classes)
  division = fn.make_partition("iid", source.train.labels, _CLIENTS, 0)
  task = fn.make_task(source, division, fn.make_norm("gn", groups=8), model_name)
  lengths = {"rounds": _ROUNDS, "eval_every": _ROUNDS, "local_steps": _STEPS}
  kind = fn.config_of(fn.METHODS["fedavg"])
  config = kind(**lengths, batch_size=batch_size, backend="vmap")
  program = fn.make_program("fedavg", task, config)
  return task, program, [dataclasses.replace(config, lr=rate) for rate in _RATES]


def measure(work: Callable[[], object]) -> tuple[float, float]:
  """Returns (seconds of the first call, median seconds of a round in further calls)."""
  seconds = []
  for _ in range(_SAMPLES + 1):
    begun = time.perf_counter()
    work()
    seconds.append(time.perf_counter() - begun)
  return seconds[0], float(np.median(seconds[1:])) / _ROUNDS


def main() -> None:
  """Prints a table of the models that are named on the command line, by default the larger ones."""
  device = jax.devices()[0]
  print(f"{device.device_kind}, jax {jax.__version__}, {len(_RATES)} rates\n")
  print(
    "| ms a round | one by one | side by side | times faster | first call, s | side by side, s |"
  )
  print("| --- " * 6 + "|")
  for name in sys.argv[1:] or ("cnn", "resnet20"):
    task, program, configs = runs(*_CASES[name])
    variables = initial_variables(task, 0)
    assert can_share(program, configs[0]) is None
    lanes = fitting_lanes(task, program, configs[0])
    groups = [configs[i : i + lanes] for i in range(0, len(configs), lanes)]

    def alone(task=task, program=program, configs=configs, variables=variables) -> None:
      for config in configs:
        one = program._replace(rates=config.rates(_ROUNDS))
        try:
          train(one, config, task.data, variables)
        except fn.DivergedError:
          print(f"note: {config.lr:g} diverged, which shortens its run.", file=sys.stderr)

    def together(task=task, program=program, groups=groups, variables=variables) -> None:
      for group in groups:
        train_lanes(program, group, task.data, variables)

    (first, one_by_one), (first_lanes, side_by_side) = measure(alone), measure(together)
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    figures = (
      f"{1e3 * one_by_one:.3g}",
      f"{1e3 * side_by_side:.3g} ({min(lanes, len(configs))} lanes)",
      f"{one_by_one / side_by_side:.2f}",
      f"{first:.1f}",
      f"{first_lanes:.1f}",
    )
    print(f"| {name}, {size:,} parameters | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
  main()
