"""Measures all forms of the convolutions beside each other: ``python -m benchmarks.lowering``.

For every distinct convolution of the models, and of small networks in the literature, it times each
form of each part in turn, within a loop, as the trainer runs them: on a CPU on one core, for one
client, also the forms that the library leaves out (``benchmarks/forms.py``); on an accelerator
under vmap over 32 clients of 64 images, each with a kernel of its own. It writes the figures
(``lowering.csv``, ``lowering.md``) as they come, and names each convolution for which another form
is more than 10% faster than the one that ``fedjax_norm.ops.rules`` chooses.
"""

import csv
import dataclasses
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks.convolutions import MODELS, Shape, shapes
from benchmarks.forms import OTHERS
from benchmarks.run import say
from fedjax_norm import client_mapping, models
from fedjax_norm.cli.app import guard, parse_flags, refuse_positional
from fedjax_norm.errors import UserError
from fedjax_norm.ops import batching, rules
from fedjax_norm.ops.geometry import Geometry
from fedjax_norm.ops.lowerings import FORMS, ON_ACCELERATORS, ON_CPU, xla
from fedjax_norm.typing import Array

_PARTS = get_args(rules.Part)
_SHARED = "one shared kernel"
_TURNS, _SECONDS, _TOLERANCE = 5, 0.02, 1.1
# Memory of more than 32 MB is new, and slow, in the first of so many calls.
_LEAST_CALLS = 5
# A form that takes so many times as long as another one at first is not timed again.
_HOPELESS = 3.0


@dataclasses.dataclass(frozen=True)
class Options:
  """The options of the command.

  Attributes:
    models: names of the models whose convolutions are measured; others come in addition.
    output: folder of the figures.
    minutes: time after which no further convolution is begun; None for no limit.
    platform: platform whose forms are measured; None for that of JAX's default device.
    clients: number of clients under vmap; ignored on a CPU.
    batches: numbers of images; None for 10, 32 and 64 on a CPU and 64 on an accelerator.
  """

  models: Sequence[str] = MODELS
  output: str = "benchmarks/results"
  minutes: float | None = None
  platform: str | None = None
  clients: int = 32
  batches: Sequence[int] | None = None


class Figure(NamedTuple):
  """The time of a form of a part; it is a row of the CSV file.

  Attributes:
    shape: title of the convolution.
    batch: images of a client.
    dtype: dtype of the computation.
    part: the convolution itself or one of its gradients.
    form: name of the form.
    ms: time for all clients in milliseconds; NaN if the form failed.
    gflops: 10^9 operations of the convolution per second.
    chosen: whether the rules choose the form.
  """

  shape: str
  batch: int
  dtype: str
  part: str
  form: str
  ms: float
  gflops: float
  chosen: bool


def arrays(shape: Shape, part: str, batch: int, clients: int, dtype: str) -> list[Array]:
  """Returns random arguments of a part; on an axis of clients unless there are 0."""
  geometry, inputs, outputs = shape
  x = (batch, *geometry.image, inputs)
  kernel, dy = (*geometry.kernel, inputs, outputs), (batch, *geometry.output, outputs)
  sizes = {"forward": (x, kernel), "input_gradient": (dy, kernel), "kernel_gradient": (x, dy)}
  keys = jax.random.split(jax.random.key(0))
  leading = (clients,) if clients else ()
  return [
    jax.random.normal(key, (*leading, *size), dtype)
    for key, size in zip(keys, sizes[part], strict=True)
  ]


def candidates(geometry: Geometry, part: str, platform: str) -> dict[str, Callable[..., Array]]:
  """Returns {form: function of two arrays}, in the way in which clients are mapped."""

  def form(name: str) -> Callable[..., Array]:
    function = getattr((FORMS | OTHERS)[name], part)
    if platform == "cpu":
      return batching.isolated(function, geometry)
    return jax.vmap(functools.partial(function, geometry))

  def shared(first: Array, second: Array) -> Array:
    first = first.reshape(-1, *first.shape[2:])
    second = second[0] if part != "kernel_gradient" else second.reshape(-1, *second.shape[2:])
    return getattr(xla, part)(geometry, first, second)

  if platform == "cpu":
    return {name: form(name) for name in (*ON_CPU, "xla", *OTHERS)}
  return {**{name: form(name) for name in ON_ACCELERATORS}, _SHARED: shared}


def in_loop(function: Callable[..., Array]) -> jax.stages.Wrapped:
  """Returns a compiled function that calls ``function`` several times, each on changed arrays."""

  @jax.jit
  def run(first: Array, second: Array, times: int) -> Array:
    def again(_: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
      # An element of each array is changed in place, so that nothing is moved out of the loop.
      change = carry[2].ravel()[0].astype(first.dtype) * 1e-30
      first_, second_ = (a.at[(0,) * a.ndim].add(change) for a in carry[:2])
      return first_, second_, function(first_, second_)

    out = jax.eval_shape(function, first, second)
    return jax.lax.fori_loop(0, times, again, (first, second, jnp.zeros(out.shape, out.dtype)))[2]

  return run


def seconds(functions: dict[str, Callable[..., Array]], args: Sequence[Array]) -> dict[str, float]:
  """Returns {name: least time of a call}, taking turns; NaN for functions that fail."""
  loops: dict[str, Callable[..., Array]] = {}
  best = dict.fromkeys(functions, math.nan)

  def timed(name: str, calls: int) -> float:
    begun = time.perf_counter()
    loops[name](*args, calls).block_until_ready()
    return (time.perf_counter() - begun) / calls

  for name in functions:
    try:
      loops[name] = in_loop(functions[name]).lower(*args, 1).compile()
      once = timed(name, 1)  # which may be slow, as its memory is new
      best[name] = min(once, timed(name, max(1, int(_SECONDS / once))))
    except jax.errors.JaxRuntimeError as error:  # such as too little memory
      say(f"  {name} failed: {str(error).splitlines()[0]}")
  limit = _HOPELESS * min(best.values(), key=_or_infinite)
  calls = {
    name: max(_LEAST_CALLS, int(_SECONDS / once)) for name, once in best.items() if once <= limit
  }
  for _ in range(_TURNS):
    for name, times in calls.items():
      best[name] = min(best[name], timed(name, times))
  return best


def measure(shape: Shape, batch: int, dtype: str, platform: str, clients: int) -> Iterator[Figure]:
  """Measures all forms of the three parts of a convolution."""
  geometry, inputs, outputs = shape
  clients = 0 if platform == "cpu" else clients
  windows = max(clients, 1) * batch * math.prod(geometry.output)
  operations = 2.0 * windows * math.prod(geometry.kernel) * inputs * outputs
  for part in _PARTS:
    args = arrays(shape, part, batch, clients, dtype)
    chosen = rules.choose(part, platform, dtype, geometry, batch, inputs, outputs, clients > 0)
    for form, best in seconds(candidates(geometry, part, platform), args).items():
      rate = operations / best / 1e9
      yield Figure(shape.title(), batch, dtype, part, form, 1e3 * best, rate, form == chosen)


def report(figures: Sequence[Figure], platform: str) -> str:
  """Returns the tables of the measured figures as Markdown."""
  by_case: dict[tuple[str, int, str], list[Figure]] = {}
  for figure in figures:
    by_case.setdefault(figure[:3], []).append(figure)
  forms = list(dict.fromkeys(figure.form for figure in figures))
  device = jax.devices()[0].device_kind
  unit = "ms on one core" if platform == "cpu" else "TFLOP/s of all clients"
  lines = [f"{device}, jax {jax.__version__}, {unit}; the chosen form is bold.\n"]
  lines += [f"| convolution | part | {' | '.join(forms)} | share of the best |"]
  lines += ["| --- " * (len(forms) + 3) + "|"]
  slow = []
  for (title, batch, dtype), rows in by_case.items():
    for part in (*_PARTS, "all"):
      here = [row for row in rows if part in (row.part, "all")]
      # A form's time for all parts; the chosen one may differ from part to part.
      ms = {form: sum(row.ms for row in here if row.form == form) for form in forms}
      chosen = sum(row.ms for row in here if row.chosen)
      best = min((ms[form] for form in forms if form != _SHARED), key=_or_infinite)
      # By the parts, whose times and rates are NaN for a form that failed.
      done = {row.part: row.ms * row.gflops / 1e3 for row in here if row.ms == row.ms}
      operations = sum(done.values())
      cells = []
      for form in forms:
        value = ms[form] if platform == "cpu" else operations / ms[form]
        bold = (
          "**" if part != "all" and any(row.form == form and row.chosen for row in here) else ""
        )
        cells.append(f"{bold}{value:.3g}{bold}")
      name = f"{title}, {batch} images, {dtype}"
      lines.append(f"| {name} | {part} | {' | '.join(cells)} | {best / chosen:.2f} |")
      if part != "all" and chosen > _TOLERANCE * best:
        slow.append(f"- {name}, {part}: the chosen form takes {chosen / best:.2f} times the best")
  verdict = (
    "More than 10% slower than the best form:" if slow else "No choice is 10% from the best."
  )
  return "\n".join([*lines, "", verdict, *slow, ""])


def _or_infinite(ms: float) -> float:
  return math.inf if math.isnan(ms) else ms


def main(options: Options) -> None:
  """Measures and writes the figures.

  Raises:
    UserError: a model is unknown.
  """
  unknown = [name for name in options.models if name not in models.MODELS]
  if unknown:
    raise UserError(f"there is no model {unknown[0]!r}; choose among {', '.join(models.MODELS)}.")
  end = time.monotonic() + 60 * (math.inf if options.minutes is None else options.minutes)
  platform = options.platform or batching.default_platform()
  dtypes = ("float32",) if platform == "cpu" else ("bfloat16", "float32")
  batches = options.batches or ((64, 32, 10) if platform == "cpu" else (64,))
  cases = [
    (shape, batch, dtype)
    for shape in shapes(options.models)
    for batch in batches
    for dtype in dtypes
  ]
  output, figures = Path(options.output), []
  output.mkdir(parents=True, exist_ok=True)
  with (output / "lowering.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(Figure._fields)
    for index, (shape, batch, dtype) in enumerate(cases):
      if time.monotonic() > end:
        say(f"the time is over: {len(cases) - index} of {len(cases)} convolutions were left out.")
        break
      say(f"{shape.title()}, {batch} images, {dtype}")
      for figure in measure(shape, batch, dtype, platform, options.clients):
        figures.append(figure)
        table.writerow(figure)
        file.flush()
      (output / "lowering.md").write_text(report(figures, platform))
  say(report(figures, platform) + f"\nwritten to {output}.")


def define_flags() -> None:
  """Defines the options as flags."""
  default = Options()
  flags.DEFINE_list("models", list(default.models), "The models whose convolutions are measured.")
  flags.DEFINE_string("output", default.output, "The folder of the figures.")
  flags.DEFINE_float(
    "minutes", default.minutes, "The time for all measurements; no limit if unset.", lower_bound=0
  )
  flags.DEFINE_enum("platform", default.platform, ("cpu", "gpu"), "Unset for that of JAX.")
  flags.DEFINE_integer(
    "clients", default.clients, "The number of clients, on an accelerator.", lower_bound=1
  )
  flags.DEFINE_list("batches", None, "Numbers of images; unset for the usual ones.")


def _from_flags(argv: Sequence[str]) -> None:
  client_mapping.use_host_devices(len(os.sched_getaffinity(0)))  # which have one thread each
  names = [field.name for field in dataclasses.fields(Options)]
  values: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}

  def work() -> None:
    refuse_positional(argv[1:])
    batches = values["batches"] or []
    if not all(word.isdecimal() and int(word) for word in batches):
      raise UserError(f"--batches={','.join(batches)} is not a list of numbers such as 10,64.")
    main(Options(**{**values, "batches": list(map(int, batches)) or None}))

  sys.exit(guard(work))


if __name__ == "__main__":
  define_flags()
  app.run(_from_flags, flags_parser=parse_flags)
