"""The table of workloads, and what a peer may import."""

import ast
from pathlib import Path

import pytest

from benchmarks import peers, systems, workloads

PEERS = sorted(Path(peers.__file__).parent.glob("*.py"))


def test_letters_choose_workloads_in_their_order():
  def keys(letters, accelerator=False):
    return [one.key for one in workloads.table(letters, "full", accelerator)]

  assert keys("".join(workloads.LETTERS)) == [
    *("a", "b", "c", "d", "ea", "eb", "ec", "f1000", "f10000", "f100000", "g", "h")
  ]
  assert keys("gab") == ["g", "a", "b"]
  assert keys("e", accelerator=True) == ["ed", "ea", "eb", "ec"]


def test_a_is_the_published_benchmark():
  a = workloads.table("a", "full", accelerator=False)[0]
  assert (a.clients, a.data.examples, a.cohort, a.batch_size) == (1000, 50, 50, 10)
  assert a.local_steps * a.batch_size == a.data.examples  # one epoch
  assert (a.rate, a.momentum, a.groups) == (0.1, 0.0, 0)


@pytest.mark.parametrize("scale", ["full", "smoke"])
def test_clients_are_equal_and_whole_batches(scale):
  every = workloads.table("abcdefh", scale, accelerator=False)
  every += workloads.table("de", scale, accelerator=True)
  for one in every:
    assert one.data.examples % one.batch_size == 0
    assert one.local_steps <= one.data.examples // one.batch_size  # pfl stops at the data's end
    assert one.cohort <= one.clients


def test_every_system_is_a_module_of_the_peers():
  assert {system.module for system in systems.SYSTEMS} <= {path.stem for path in PEERS}


@pytest.mark.parametrize(
  "path", [p for p in PEERS if p.name != "ours.py"], ids=lambda path: path.name
)
def test_a_peer_needs_nothing_but_the_peers(path):
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names.add(node.module)
  ours = {name for name in names if name.split(".")[0] in ("fedjax_norm", "benchmarks")}
  assert all(name.startswith("benchmarks.peers") for name in ours)
