"""The tables, the list of measurements and the picture say what was measured and what was not."""

import csv
import io

import pytest
from helpers import benchmarks

from benchmarks import flops, picture, report, workloads
from benchmarks.measure import Measurement
from benchmarks.peers.job import Result

A, B, C, EA, *POPULATIONS, G = [
  one for one in workloads.table("abcefg", "full", accelerator=False) if one.key not in ("eb", "ec")
]
MACHINE = {
  **benchmarks.MACHINE,
  "versions": {"ours": {"jax": "1.2"}, "flower": "cannot be installed: no ray"},
}


def measured(key, system, samples, variant="", repeat=0, **fields):
  result = Result(fields.pop("start", 1.0), fields.pop("first", 9.0), samples, **fields)
  return Measurement(key, system, variant, "float32", repeat, result)


def failed(key, system, reason, variant=""):
  return Measurement(key, system, variant, "float32", 0, None, reason)


MEASUREMENTS = [
  measured("a", "ours", [2.0, 4.0], compile=5.0),
  measured("a", "torch_loop", [9.0], "nchw"),
  measured("a", "torch_loop", [6.0], "channels_last"),
  failed("a", "flower", "cannot be installed: no ray"),
  measured("a", "ours", [3.0, 30.0], repeat=1, compile=7.0),
]


def row(text, *beginning):
  """The cells of the only row that begins so."""
  rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
  (found,) = [cells for cells in rows if cells[: len(beginning)] == list(beginning)]
  return found


def test_samples_of_all_turns_are_pooled():
  ours = report.summarize(MEASUREMENTS)[0]
  assert (ours.median, ours.low, ours.high, ours.samples) == (3.5, 2.0, 30.0, 4)
  assert (ours.start, ours.compile, ours.first) == (1.0, 6.0, 9.0)


def test_a_system_that_failed_in_one_turn_has_no_figures():
  late = [measured("a", "pfl", [1.0]), failed("a", "pfl", "took longer than 900 s")]
  (summary,) = report.summarize(late)
  assert summary.reason == "took longer than 900 s"


def test_the_table_compares_with_ours_and_with_the_ceiling():
  text = report.markdown([A], MEASUREMENTS, MACHINE)
  rate = flops.per_round(A) / 3.5 / 1e9
  expected = ["fedjax_norm", "3.5", "2 to 30", "4", "714"]  # 50 clients with 50 examples
  assert row(text, "fedjax_norm") == [*expected, report.number(rate), f"{rate:.1f}%", "1.00"]
  assert row(text, "PyTorch loop, channels last")[-1] == "1.71"
  assert row(text, "PyTorch loop, nchw")[-1] == "2.57"
  assert "(e)" not in text


def test_starts_are_ours_with_and_without_programs_beside_the_peers():
  starts = [
    measured("ea", "ours", [3.0], "first_start", compile=5.0),
    measured("ea", "ours", [3.0], "second_start", start=1.5, compile=0.5, first=4.0),
  ]
  text = report.markdown([A, EA], [*MEASUREMENTS, *starts], MACHINE)
  assert row(text, "a", "fedjax_norm, first start") == [
    *("a", "fedjax_norm, first start", "1", "5", "9", "3")
  ]
  assert row(text, "a", "fedjax_norm, second start")[2:] == ["1.5", "0.5", "4", "3"]
  assert row(text, "a", "PyTorch loop, nchw")[3] == "-"
  assert "(ea)" not in text


def test_unequal_clients_are_compared_with_equal_ones():
  unequal = [measured("g", "ours", [7.0]), measured("g", "torch_loop", [8.0], "nchw")]
  text = report.markdown([G, A], [*unequal, *MEASUREMENTS], MACHINE)
  table = text[text.index("## (g)") : text.index("## (a)")]
  assert row(table, "fedjax_norm")[-2:] == ["1.00", "0.50"]
  assert row(table, "PyTorch loop, nchw")[-2:] == ["1.14", "1.12"]


def test_the_share_of_the_ceiling_is_of_the_system_s_own_device():
  ceiling = {"platform": "gpu", "device": "some GPU", "gflops": {"float32": 1000.0}}
  those = [measured("a", "fedjax", [1.0]), measured("a", "torch_loop", [1.0], device="cuda")]
  text = report.markdown([A], those, {**MACHINE, "ceiling": ceiling})
  assert row(text, "FedJAX")[6] == ""
  assert row(text, "PyTorch loop, cuda")[6] == f"{flops.per_round(A) / 1e12:.1%}"


def test_a_failed_peer_stands_in_every_table_with_its_reason():
  one = POPULATIONS[0]
  population = [measured(one.key, "ours", [0.5]), failed(one.key, "pfl", "ran out of memory")]
  text = report.markdown([A, EA, one], [*MEASUREMENTS, *population], MACHINE)
  reason = "not measured: cannot be installed: no ray"
  assert row(text, "Flower")[1] == reason
  assert row(text, "a", "Flower")[2] == reason
  assert row(text, "pfl-research", "1,000")[2] == "not measured: ran out of memory"
  assert "- Flower: cannot be installed: no ray" in text
  assert "- fedjax_norm: jax 1.2" in text
  widths = {line.count("|") for line in text.splitlines() if line.startswith("| Flower")}
  assert widths == {9}


def test_units():
  assert [one.shown(0.5) for one in (A, B, C)] == [0.5, 100.0, 500.0]  # s; ms of 5 steps; ms


def test_the_fastest_variant_is_the_best_of_a_system():
  summaries = report.summarize(MEASUREMENTS)
  assert report.best(summaries, "torch_loop").variant == "channels_last"
  assert report.best(summaries, "flower") is None


def test_every_figure_is_in_the_csv():
  rows = list(csv.DictReader(io.StringIO(report.all_as_csv([A], MEASUREMENTS))))
  ours = [r for r in rows if r["system"] == "ours" and r["what"] == "round_s"]
  assert [(r["repeat"], float(r["value"])) for r in ours] == [
    ("0", 2.0),
    ("0", 4.0),
    ("1", 3.0),
    ("1", 30.0),
  ]
  (flower,) = [r for r in rows if r["system"] == "flower"]
  assert (flower["what"], flower["note"]) == ("failed", "cannot be installed: no ray")


def test_the_picture_has_a_bar_for_each_system_with_figures_and_a_line_over_populations():
  grown = [
    measured(one.key, "ours", [0.1 * i], private_mb=10.0 * i)
    for i, one in enumerate(POPULATIONS, 1)
  ]
  chosen = [A, *POPULATIONS]
  summaries = {
    one.key: report.summarize([m for m in MEASUREMENTS + grown if m.workload == one.key])
    for one in chosen
  }
  bars, times, memory = picture.draw(chosen, summaries).axes
  assert [label.get_text() for label in bars.get_yticklabels()] == [
    "fedjax_norm",
    "PyTorch loop, nchw",
    "PyTorch loop, channels last",
  ]
  assert [patch.get_width() for patch in bars.patches] == [3.5, 9.0, 6.0]
  (line,) = times.lines
  assert list(line.get_xdata()) == [1_000, 10_000, 100_000]
  assert line.get_ydata() == pytest.approx([100.0, 200.0, 300.0])  # ms
  assert list(memory.lines[0].get_ydata()) == [10.0, 20.0, 30.0]
