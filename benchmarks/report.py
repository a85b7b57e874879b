"""The report of a benchmark run: tables, every measurement, and the machine."""

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import flops
from benchmarks.measure import Measurement
from benchmarks.systems import OURS, SYSTEMS
from benchmarks.workloads import Workload

TITLES = {system.name: system.title for system in SYSTEMS}


class Summary(NamedTuple):
  """The results of one variant of a system on one workload; times in seconds.

  Attributes:
    system: name of the system.
    variant: variant of the system.
    dtype: data type of the computation.
    median: median of the steady rounds of all turns.
    low: fastest steady round.
    high: slowest steady round.
    samples: number of steady rounds.
    start: median start-up time.
    compile: median compilation time; None if nothing is compiled.
    first: median time of the first round.
    peak_mb: greatest peak of memory, in 10^6 bytes; None if unknown.
    private_mb: the same, without mapped files.
    device: device of the computation.
    reason: why there are no results; '' if there are.
  """

  system: str
  variant: str
  dtype: str
  median: float = 0.0
  low: float = 0.0
  high: float = 0.0
  samples: int = 0
  start: float = 0.0
  compile: float | None = None
  first: float = 0.0
  peak_mb: float | None = None
  private_mb: float | None = None
  device: str = "cpu"
  reason: str = ""

  @property
  def title(self) -> str:
    """Name in tables."""
    dtype = "" if self.dtype == "float32" else self.dtype
    device = "" if self.device == "cpu" else self.device
    parts = (TITLES[self.system], self.variant.replace("_", " "), dtype, device)
    return ", ".join(filter(None, parts))


def summarize(measurements: Sequence[Measurement]) -> list[Summary]:
  """Summarizes the measurements of a workload by system, variant and dtype, in their order."""
  grouped: dict[tuple[str, str, str], list[Measurement]] = {}
  for one in measurements:
    grouped.setdefault((one.system, one.variant, one.dtype), []).append(one)
  return [_summary(*who, those) for who, those in grouped.items()]


def _summary(system: str, variant: str, dtype: str, those: Sequence[Measurement]) -> Summary:
  results = [one.result for one in those if one.result]
  if len(results) < len(those):
    return Summary(system, variant, dtype, reason=next(one.reason for one in those if one.reason))
  samples = [seconds for result in results for seconds in result.samples]
  compiled = [result.compile for result in results if result.compile is not None]
  peaks = [result.peak_mb for result in results if result.peak_mb is not None]
  private = [result.private_mb for result in results if result.private_mb is not None]
  return Summary(
    system,
    variant,
    dtype,
    statistics.median(samples),
    min(samples),
    max(samples),
    len(samples),
    statistics.median(result.start for result in results),
    statistics.median(compiled) if compiled else None,
    statistics.median(result.first for result in results),
    max(peaks, default=None),
    max(private, default=None),
    results[0].device,
  )


def best(summaries: Sequence[Summary], system: str, dtype: str = "float32") -> Summary | None:
  """Returns the fastest variant of a system with results."""
  able = [s for s in summaries if s.system == system and s.dtype == dtype and not s.reason]
  return min(able, key=lambda s: s.median, default=None)


def markdown(
  workloads: Sequence[Workload], measurements: Sequence[Measurement], machine: Mapping[str, Any]
) -> str:
  """Returns the report as Markdown.

  Args:
    workloads: the measured workloads.
    measurements: all measurements.
    machine: description of the machine by ``run.py``.
  """
  by_key = {
    one.key: summarize([m for m in measurements if m.workload == one.key]) for one in workloads
  }
  parts = ["# Benchmark results\n", *_machine(machine)]
  equal = {
    (s.system, s.variant): one.examples / s.median
    for one in workloads
    if one.key == "a"
    for s in by_key["a"]
    if not s.reason
  }
  for one in workloads:
    if one.key[0] not in "ef":
      parts += _speed(one, by_key[one.key], machine["ceiling"], equal if one.alpha else {})
  starts = [one.key for one in workloads if one.key[0] == "e"]
  if starts:
    parts += _starts(starts, by_key)
  populations = [one for one in workloads if one.key[0] == "f"]
  if populations:
    parts += _population(populations, by_key)
  return "\n".join(parts)


def _machine(machine: Mapping[str, Any]) -> Iterator[str]:
  yield f"{machine['processor']}, cores used: {machine['threads']}, {machine['memory_gb']:.0f} GB,"
  yield f"{machine['system']}, Python {machine['python']}; {machine['date']}."
  if machine["ceiling"]["platform"] != "cpu":
    yield f"Accelerator: {machine['ceiling']['device']}; what ran on it says so."
  rates = (f"{rate:,.0f} GFLOP/s {name}" for name, rate in machine["ceiling"]["gflops"].items())
  yield f"A dense matrix product reaches {', '.join(rates)}.\n"
  for name, versions in machine["versions"].items():
    listed = versions if isinstance(versions, str) else ", ".join(map(" ".join, versions.items()))
    yield f"- {TITLES[name]}: {listed}"
  yield ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
  yield f"| {' | '.join(header)} |"
  yield f"|{' --- |' * len(header)}"
  for row in rows:
    yield f"| {' | '.join(row)} |"
  yield ""


def number(value: float) -> str:
  """Formats a number with three digits, without a power of ten."""
  return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _failed(summary: Summary, columns: int) -> list[str]:
  return [summary.title, f"not measured: {summary.reason}", *[""] * (columns - 2)]


def _speed(
  one: Workload,
  summaries: list[Summary],
  ceiling: Mapping[str, Any],
  equal: Mapping[tuple[str, str], float],
) -> Iterator[str]:
  """Yields a workload's table; `equal` has the examples/s of (a) by system and variant, if any."""
  yield f"## ({one.key}) {one.title}\n"
  operations = flops.per_round(one)
  yield f"{one.examples:,} examples and {operations / 1e9:,.2f} GFLOP a round.\n"
  header = ["system", f"{one.unit}, median", "least to greatest", "samples", "examples/s"]
  header += ["GFLOP/s", "of the ceiling", "times ours"]
  if equal:
    header.append("of (a)'s examples/s")
  rows = []
  for s in summaries:
    if s.reason:
      rows.append(_failed(s, len(header)))
      continue
    ours = best(summaries, OURS, s.dtype)
    rate = operations / s.median / 1e9
    # An accelerator has several names: "gpu" in JAX is "cuda" in PyTorch.
    peak = ceiling["gflops"].get(s.dtype)
    same_device = (s.device == "cpu") == (ceiling["platform"] == "cpu")
    rows.append(
      [
        s.title,
        number(one.shown(s.median)),
        f"{number(one.shown(s.low))} to {number(one.shown(s.high))}",
        str(s.samples),
        number(one.examples / s.median),
        number(rate),
        f"{rate / peak:.1%}" if same_device and peak else "",
        f"{s.median / ours.median:.2f}" if ours else "",
      ]
    )
    if equal:
      other = equal.get((s.system, s.variant))
      rows[-1].append(f"{one.examples / s.median / other:.2f}" if other else "")
  yield from _table(header, rows)


def _starts(keys: Sequence[str], by_key: Mapping[str, list[Summary]]) -> Iterator[str]:
  """Yields our starts and, if they were measured, the other systems' (first) starts."""
  yield "## (e) Start, compilation, first round, steady round\n"
  header = ["workload", "system", "start, s", "compile, s", "first round, s", "steady round, s"]
  rows = []
  for key in keys:
    letter = key[1]
    for s in [*by_key[key], *(s for s in by_key.get(letter, ()) if s.system != OURS)]:
      if s.reason:
        rows.append([letter, *_failed(s, len(header) - 1)])
        continue
      compiled = "-" if s.compile is None else number(s.compile)
      rows.append([letter, s.title, number(s.start), compiled, number(s.first), number(s.median)])
  yield from _table(header, rows)


def _population(
  workloads: Sequence[Workload], by_key: Mapping[str, list[Summary]]
) -> Iterator[str]:
  yield f"## (f) Population, {workloads[0].cohort} clients a round\n"
  header = ["system", "clients", f"{workloads[0].unit}, median", "least to greatest", "start, s"]
  header += ["first call, s", "peak memory, MB", "of it private, MB"]
  rows = []
  for who in dict.fromkeys((s.system, s.variant) for w in workloads for s in by_key[w.key]):
    for one in workloads:
      for s in by_key[one.key]:
        if (s.system, s.variant) != who:
          continue
        clients = f"{one.clients:,}"
        if s.reason:
          title, why, *rest = _failed(s, len(header) - 1)
          rows.append([title, clients, why, *rest])
          continue
        rows.append(
          [
            s.title,
            clients,
            number(one.shown(s.median)),
            f"{number(one.shown(s.low))} to {number(one.shown(s.high))}",
            number(s.start),
            number(s.first * one.rounds_per_sample + (s.compile or 0)),
            *("-" if mb is None else f"{mb:,.0f}" for mb in (s.peak_mb, s.private_mb)),
          ]
        )
  yield from _table(header, rows)


def all_as_csv(workloads: Sequence[Workload], measurements: Sequence[Measurement]) -> str:
  """Returns all measurements as CSV, one number per line."""
  clients = {one.key: one.clients for one in workloads}
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(
    ["workload", "clients", "system", "variant", "dtype", "repeat", "what", "value", "note"]
  )
  for one in measurements:
    who = [one.workload, clients[one.workload], one.system, one.variant, one.dtype, one.repeat]
    if one.result is None:
      writer.writerow([*who, "failed", "", one.reason])
      continue
    figures: list[tuple[str, float | None]] = []
    figures += [("start_s", one.result.start), ("first_round_s", one.result.first)]
    figures += [("compile_s", one.result.compile), ("peak_mb", one.result.peak_mb)]
    figures += [("private_mb", one.result.private_mb)]
    figures += [("round_s", seconds) for seconds in one.result.samples]
    figures += [("loss", loss) for loss in one.result.losses]
    note = "; ".join(f"{name}: {value}" for name, value in one.result.detail.items())
    for what, value in figures:
      if value is not None:
        writer.writerow([*who, what, value, note])
  return text.getvalue()
