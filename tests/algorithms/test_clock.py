"""The simulated clock against a simulation of every message, and the network profiles."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm.algorithms.costs import clock
from fedjax_norm.algorithms.costs.clock import ClientTraffic, Clock
from fedjax_norm.algorithms.costs.ledger import Cost
from fedjax_norm.algorithms.costs.network_profiles import PROFILES
from fedjax_norm.errors import UserError

COST = Cost(up=1_000, down=3_000)
TWO = Clock(
  step_seconds=np.array([2.0, 0.5]),
  latency=np.array([0.25, 1.0]),
  up=np.array([100.0, 1_000.0]),
  down=np.array([1_000.0, 500.0]),
)


def test_a_round_lasts_as_long_as_its_slowest_client():
  # Node 0: 3 s down, 10 s up, 0.5 s latency. Node 1: 6 s down, 1 s up, 2 s latency.
  alone = [13.5 + 2 * 2.0, 9.0 + 40 * 0.5]
  assert TWO.round_seconds(COST, np.array([0]), np.array([2])) == alone[0]
  assert TWO.round_seconds(COST, np.array([1]), np.array([40])) == alone[1]
  assert TWO.round_seconds(COST, np.array([1, 0]), np.array([40, 2])) == max(alone)
  np.testing.assert_allclose(TWO.event_seconds(COST), [15.5, 9.5])


def simulate(times, cost, steps):
  """Returns the duration of a round in lock-step by simulating every message."""
  clients = range(len(steps))
  trips = cost.step_trips
  ready = [times.latency[i] + cost.down / times.down[i] for i in clients]  # the model has arrived
  for step in range(max(steps)):
    training = [i for i in clients if steps[i] > step]
    for _ in range(trips):
      sent = []
      for i in training:
        computed = ready[i] + times.step_seconds[i] / trips
        sent.append(computed + times.latency[i] + cost.step_up / trips / times.up[i])
      merged = max(sent)  # the server has received all messages and answers
      for i in training:
        ready[i] = merged + times.latency[i] + cost.step_down / trips / times.down[i]
  return max(ready[i] + times.latency[i] + cost.up / times.up[i] for i in clients)


positive = st.floats(0.01, 100)


@settings(max_examples=60)
@given(data=st.data())
def test_the_duration_of_lock_step_equals_a_simulation_of_its_messages(data):
  size = data.draw(st.integers(1, 5))
  draws = [data.draw(st.lists(positive, min_size=size, max_size=size)) for _ in range(4)]
  times = Clock(*map(np.array, draws))
  steps = data.draw(st.lists(st.integers(1, 4), min_size=size, max_size=size))
  cost = Cost(*(data.draw(st.integers(0, 500)) for _ in range(4)), data.draw(st.integers(1, 3)))
  order = np.array(data.draw(st.permutations(range(size))))
  duration = times.round_seconds(cost, order, np.array(steps)[order])
  np.testing.assert_allclose(duration, simulate(times, cost, steps), rtol=1e-9)


def test_lock_step_waits_for_the_slowest_at_every_exchange():
  nodes = Clock(np.array([1.0, 1.0]), np.zeros(2), np.array([1e9, 1.0]), np.array([1.0, 1e9]))
  cost = Cost(up=0, down=0, step_up=2, step_down=4, step_trips=2)
  # Six exchanges. Node 1 sends the first after 0.5 + 1 seconds. Each of the next five waits for
  # node 0, which receives for 2 s and computes for 0.5 s; then node 0 receives the last one.
  duration = nodes.round_seconds(cost, np.arange(2), np.array([3, 3]))
  assert duration == pytest.approx(1.5 + 5 * 2.5 + 2)


def ends(times, cost, steps, traffic, begin, node):
  """Returns when a node that begins at a time has taken its steps, message by message."""
  now, latency = begin + cost.down / times.down[node], times.latency[node]
  for _ in range(steps):
    now += times.step_seconds[node]
    for _ in range(cost.step_trips):
      now += latency + latency
    now += cost.step_up / times.up[node] + cost.step_down / times.down[node]
  now += traffic.up / times.up[node] + traffic.down / times.down[node] + cost.up / times.up[node]
  return now + 2 * latency * (cost.trips + traffic.trips)


@settings(max_examples=60)
@given(data=st.data())
def test_independent_and_sequential_clients_equal_a_simulation_of_each(data):
  size = data.draw(st.integers(1, 4))
  draws = [data.draw(st.lists(positive, min_size=size, max_size=size)) for _ in range(4)]
  times = Clock(*map(np.array, draws))
  each = [data.draw(st.integers(1, 4)) for _ in range(size)]
  costs = (data.draw(st.integers(0, 500)) for _ in range(4))
  cost = Cost(*costs, data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2)))
  traffic = ClientTraffic(*(data.draw(st.integers(0, 500)) for _ in range(3)))
  # A client sends in proportion to its steps; sequential clients divide the round trips.
  parts = [count * size / sum(each) for count in each]
  sequential, last = 0.0, 0.0
  for node, (part, count) in enumerate(zip(parts, each, strict=True)):
    part_traffic = ClientTraffic(*(value * part for value in traffic))
    last = max(last, ends(times, cost, count, part_traffic, 0.0, node))
    part_traffic = part_traffic._replace(trips=part_traffic.trips / size)
    sequential = ends(times, cost._replace(trips=0), count, part_traffic, sequential, node)
  clients, steps = np.arange(size), np.array(each)
  duration = times.round_seconds(cost, clients, steps, traffic, "independent")
  np.testing.assert_allclose(duration, last, rtol=1e-9)
  duration = times.round_seconds(cost, clients, steps, traffic, "sequential")
  in_parallel = 2 * max(times.latency) * cost.trips
  np.testing.assert_allclose(duration, in_parallel + sequential, rtol=1e-9)


def test_a_pass_counts_messages_per_example_and_computation_per_step():
  cost = COST._replace(step_up=50, step_down=10)
  # Node 0: 13.5 s as above, 8 * 0.51 s of messages, 1 s of steps. Node 1: 9, 40 * 0.07 and 1.5 s.
  duration = TWO.pass_seconds(cost, np.array([8, 40]), np.array([0.5, 3.0]))
  assert duration == pytest.approx(max(13.5 + 8 * 0.51 + 1, 9 + 40 * 0.07 + 1.5))


@pytest.mark.parametrize("name", PROFILES)
def test_the_speed_of_a_node_depends_only_on_its_index(name):
  few, many = clock.make(name, 3, 1e9), clock.make(name, 2_000, 1e9)
  known = PROFILES[name]
  for a, b in zip(few, many, strict=True):
    np.testing.assert_array_equal(a, b[:3])
  # Node 0 is typical.
  assert few.step_seconds[0] == pytest.approx(1e9 / known.flops)
  assert (few.latency == known.latency).all()
  assert (few.up[0], few.down[0]) == pytest.approx((known.up, known.down))
  # The nodes fill the spread evenly, on a logarithmic scale.
  for values, middle, spread in (
    (1e9 / many.step_seconds, known.flops, known.flops_spread),
    (many.up, known.up, known.link_spread),
    (many.down, known.down, known.link_spread),
  ):
    logs = np.log(values / middle)
    half = math.log(spread) / 2
    assert np.abs(logs).max() <= half + 1e-9
    quartiles = np.quantile(logs, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quartiles, half * np.array([-1, -0.5, 0, 0.5, 1]), atol=0.01)


def test_speeds_and_links_are_uncorrelated():
  nodes = clock.make("mobile", 2_000, 1.0)
  assert abs(np.corrcoef(np.log(nodes.step_seconds), np.log(nodes.up))[0, 1]) < 0.02


def test_profiles_are_ordered_by_speed():
  model = Cost(up=5_000_000, down=5_000_000)
  cohort, steps = np.arange(10), np.full(10, 5)
  lan, wan, mobile = (
    clock.make(name, 10, 6e9).round_seconds(model, cohort, steps) for name in PROFILES
  )
  assert 10 * lan < wan < mobile / 3


def test_steps_can_differ_in_size():
  sizes = np.array([1.0, 5.0, 2.0])
  different, same = clock.make("lan", 3, 1e9 * sizes), clock.make("lan", 3, 1e9)
  np.testing.assert_allclose(different.step_seconds, same.step_seconds * sizes)


HEADER = "node,step_seconds,latency_seconds,up_bytes_per_second,down_bytes_per_second\n"


def test_a_file_describes_each_node_in_a_row(tmp_path):
  path = tmp_path / "net.csv"
  # Rows and columns in another order, with a further column and a further node.
  path.write_text(
    "latency_seconds, node, step_seconds, up_bytes_per_second, down_bytes_per_second, city\n"
    "0.5,1,2,30,40,Ulm\n0,0,1e-3,5e6,7e6,Rome\n9,2,9,9,9,Bonn\n"
  )
  nodes = clock.make(str(path), 2, 1e9)
  assert nodes.step_seconds.tolist() == [1e-3, 2.0]
  assert nodes.latency.tolist() == [0.0, 0.5]
  assert nodes.up.tolist() == [5e6, 30.0]
  assert nodes.down.tolist() == [7e6, 40.0]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "has no column node, step_seconds, latency_seconds"),
    ("node,step_seconds\n0,1\n", "has no column latency_seconds, up_bytes_per_second, down_"),
    (HEADER + "0,1,0,1,1\n", "has no row for node 1; give a row for each of the run.s 2"),
    (HEADER + "0,1,0,1,1\n2,1,0,1,1\n", "has no row for node 1"),
    (HEADER + "0,1,0,1,1\n0,1,0,1,1\n", "two rows for the same node"),
    (HEADER + "0,1,0,1,1\n1,fast,0,1,1\n", "line 3: step_seconds is 'fast'; it must be a number a"),
    (HEADER + "0,0,0,1,1\n", "line 2: step_seconds is '0'; it must be a number above 0"),
    (HEADER + "0,1,-1,1,1\n", "latency_seconds is '-1'; it must be a number of 0 or more"),
    (HEADER + "0,1,0,inf,1\n", "up_bytes_per_second is 'inf'; it must be a number above 0"),
    (HEADER + "0,1,0,1,nan\n", "down_bytes_per_second is 'nan'"),
    (HEADER + "0,1,0,1\n", "down_bytes_per_second is None"),
    (HEADER + "0.5,1,0,1,1\n", "node is '0.5'; it must be a whole number from 0"),
    (HEADER + "-1,1,0,1,1\n", "node is '-1'"),
    (HEADER + "0,1,0,1,1\x80\n", "cannot be read as a CSV file"),
  ],
)
def test_invalid_files_are_refused(tmp_path, text, message):
  path = tmp_path / "net.csv"
  path.write_bytes(text.encode("latin-1"))
  with pytest.raises(UserError, match=message):
    clock.make(str(path), 2, 1e9)


def test_an_unknown_profile_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"no network profile and no file 'wifi'; give lan, wan, mob"):
    clock.make("wifi", 2, 1e9)
  with pytest.raises(UserError, match="no network profile and no file"):
    clock.make(str(tmp_path), 2, 1e9)
