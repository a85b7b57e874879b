"""Training by messages gives the same numbers, and no message has what must not cross."""

import collections
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.settings import configure
from helpers.split_world import LOCAL, SIZES, algorithm, initial, net, scaled
from helpers.step_world import KEY, at, run_rounds, skewed

from fedjax_norm.local_training import Metrics
from fedjax_norm.options import with_defaults
from fedjax_norm.split.by_messages.log import MessageLog
from fedjax_norm.split.by_messages.training import make_interval
from fedjax_norm.split.config import SplitConfig

RATES = np.array([0.1, 0.05], np.float32)
SEED = 2**32 - 1


@pytest.fixture(scope="module")
def data(tiny_source):
  whole = skewed(tiny_source, SIZES)
  known = np.where(np.arange(len(whole.labels)) % 3 == 1, -1, whole.labels).astype(np.int32)
  return {"labelled": whole, "partly": whole._replace(labels=known, targets=known)}


@functools.cache
def _model(name):
  model = net(name)
  return model, initial(model)


def _by_messages(config, data, name="bn"):
  """Returns (server state, client states, metrics, all messages) after both rounds."""
  model, variables = _model(name)
  rules, _ = algorithm(model, config)
  messages = []
  starts = {SEED: rules.init(variables)}.__getitem__
  interval = make_interval(rules, config, scaled, SEED, starts, messages.append)
  state = rules.init(variables)
  client = rules.init_client(state)
  clients = jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a)[None], len(SIZES), 0), client)
  slots = np.tile(np.arange(len(SIZES)), (len(RATES), 1))
  data, zeros = jax.tree.map(jnp.asarray, data), Metrics.zeros()
  result = interval(state, clients, zeros, slots, RATES, 0 * RATES, 0, 0, len(RATES), data, KEY)
  return (*jax.tree.map(np.asarray, result), messages)


CASES = {
  "turns": (
    "labelled",
    configure(SplitConfig, LOCAL, cut="conv", local_steps=2, hand_over="centralised"),
  ),
  "u_shape": ("labelled", configure(SplitConfig, LOCAL, cut="conv", tail="body", hand_over="peer")),
  "relays": (
    "partly",
    configure(SplitConfig, LOCAL, cut="conv", relays="mix,body", autoencoder=0.5, hand_over="peer"),
  ),
  "splitfed": (
    "partly",
    configure(
      with_defaults(SplitConfig, variant="splitfed_v1"), LOCAL, cut="conv", autoencoder=0.5
    ),
  ),
}


@pytest.fixture(scope="module")
def runs(data):
  """A function: name of a case -> result of ``_by_messages``."""
  return functools.cache(lambda case: _by_messages(CASES[case][1], data[CASES[case][0]]))


@pytest.mark.parametrize("case", CASES)
def test_messages_equal_one_program(case, data, runs):
  kind, config = CASES[case]
  state, clients, metrics, messages = runs(case)
  model, variables = _model("bn")
  _, turns = algorithm(model, config)
  fast, fast_clients, fast_metrics = run_rounds(turns, variables, data[kind], RATES)
  chex.assert_trees_all_close(state, at(fast, -1), atol=3e-6)
  chex.assert_trees_all_close(clients, at(fast_clients, -1), atol=3e-6)
  chex.assert_trees_all_close(metrics, jax.tree.map(lambda a: a.sum(0), fast_metrics), rtol=1e-5)

  sent = turns.sent(state)
  up = sum(m.num_bytes for m in messages if m.sender.startswith("alice"))
  down = sum(m.num_bytes for m in messages if m.receiver.startswith("alice"))
  assert (up, down) == (sent.bytes_up, sent.bytes_down)
  between = [m for m in messages if "alice" not in m.sender + m.receiver]
  assert sum(m.num_bytes for m in between) == state.tally.relayed.low
  for row in turns.report.client_rows(clients):
    me = f"alice{row['client']}"
    assert row["bytes_up"] == sum(m.num_bytes for m in messages if m.sender == me)
    assert row["bytes_down"] == sum(m.num_bytes for m in messages if m.receiver == me)
  _check_no_image_crosses(messages, data[kind].images)


def _check_no_image_crosses(messages, images):
  """Checks that no row of any tensor is an image, before or after the shift of the model."""
  image_bytes = {image.tobytes() for shift in (0.0, 0.5) for image in images - np.float32(shift)}
  for message in messages:
    for leaf in jax.tree.leaves(message.tensors):
      for row in np.atleast_1d(leaf):
        assert np.asarray(row).tobytes() not in image_bytes


def test_labels_stay_in_the_u_shape(runs):
  *_, messages = runs("u_shape")
  assert {m.kind for m in messages} == {"activation", "gradient", "hand_over"}
  assert all(leaf.dtype == np.float32 for m in messages for leaf in jax.tree.leaves(m.tensors))
  # Peers hand over directly: the server receives no client weights.
  assert {m.sender[:5] for m in messages if m.kind == "hand_over"} == {"alice"}
  assert {m.receiver[:5] for m in messages if m.kind == "hand_over"} == {"alice"}


def test_relays_see_at_most_one_end(runs):
  *_, messages = runs("relays")
  partners = collections.defaultdict(set)
  for m in messages:
    partners[m.sender].add(m.receiver[:5])
    partners[m.receiver].add(m.sender[:5])
    if m.kind == "labels":
      assert m.receiver == "bob" or m.reader == "bob"
      assert m.tensors.min() >= 0  # unknown labels are not sent
  assert partners["eve0"] == {"alice", "eve1"}
  assert partners["eve1"] == {"eve0", "bob"}
  assert partners["bob"] == {"eve1"}


def test_updates_of_a_seed_are_exact(data, runs):
  """A seed and integer differences (sec. 3.4) give the same bits as weights."""
  weights = runs("turns")
  config = configure(
    SplitConfig, LOCAL, cut="conv", local_steps=2, hand_over="peer", handed_over="updates"
  )
  updates = _by_messages(config, data["labelled"])
  chex.assert_trees_all_equal(weights[0].variables, updates[0].variables)
  chex.assert_trees_all_equal(weights[0].opt_states, updates[0].opt_states)
  sent = [m for m in updates[-1] if m.kind == "hand_over"]
  assert len(sent) == 5
  assert {leaf.dtype for m in sent for leaf in jax.tree.leaves(m.tensors)} == {np.dtype("uint32")}
  seeds = [m for m in updates[-1] if m.kind == "seed"]
  assert [(m.sender, int(m.tensors)) for m in seeds] == [("alice0", SEED)] * 2
  _, turns = algorithm(_model("bn")[0], config)
  for row in turns.report.client_rows(updates[1]):
    me = f"alice{row['client']}"
    assert row["bytes_up"] == sum(m.num_bytes for m in updates[-1] if m.sender == me)
  kernel = _model("bn")[1]["params"]["Conv_0"]["kernel"].tobytes()
  tensors = [leaf.tobytes() for m in updates[-1] for leaf in jax.tree.leaves(m.tensors)]
  assert kernel not in tensors


def test_the_log_counts_messages_and_bytes(runs):
  *_, messages = runs("turns")
  log = MessageLog()
  for message in messages:
    log.observe(message)
  rows = {(row["kind"], row["sender"], row["receiver"]): row for row in log.rows()}
  row = rows["activation", "alice2", "bob"]
  assert (row["messages"], row["bytes"]) == (4, 16 * 144)
  assert sum(row["bytes"] for row in log.rows()) == sum(m.num_bytes for m in messages)
  row = rows["hand_over", "alice0", "bob"]
  assert (row["reader"], row["messages"]) == ("alice1", 2)
