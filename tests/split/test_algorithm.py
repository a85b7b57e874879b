"""Split learning against training of the whole model on the same batches."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.settings import built, configure
from helpers.split_world import (
  LOCAL,
  SHAPE,
  SIZES,
  algorithm,
  centralised,
  initial,
  make_turn,
  momenta,
  net,
  scaled,
)
from helpers.step_world import KEY, at, run_rounds, skewed

from fedjax_norm import tree_leaves
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.algorithms.round_algorithm import RoundContext
from fedjax_norm.client_mapping import create
from fedjax_norm.data.federated import draw
from fedjax_norm.local_training import optimizer
from fedjax_norm.models.decoder import Decoder
from fedjax_norm.norm import Mode
from fedjax_norm.options import with_defaults
from fedjax_norm.split.algorithm import turn_key
from fedjax_norm.split.config import SplitConfig

RATES = np.array([0.1, 0.05], np.float32)
V1, V2 = (with_defaults(SplitConfig, variant=f"splitfed_v{n}") for n in (1, 2))
# Examples in 2 rounds of 2 steps with batches of 4, for clients of 9, 7 and 12 examples:
# 4+4+1+4, 4+3+4+3 and 4+4+4+4.
ROWS = np.array([13, 14, 16])
MAP, FLAT, LABEL = 3 * 3 * 4 * 4, 6 * 4, 4  # bytes of an output of conv or mix, of body, of a label


@pytest.fixture(scope="module")
def data(tiny_source):
  return skewed(tiny_source, SIZES)


@pytest.mark.parametrize(
  ("name", "options", "up", "down", "trips"),
  [
    # The U-shape sends no labels; the output of body goes down and its gradient goes up.
    ("bn", {"cut": "conv", "tail": "body"}, MAP + FLAT, MAP + FLAT, 2),
    ("gn", {"cut": "conv", "turn_order": "shuffled"}, MAP + LABEL, MAP, 1),
    ("brn", {"cut": "body", "handed_over": "updates"}, FLAT + LABEL, FLAT, 1),
    ("frozen", {"cut": "conv", "relays": "mix,body", "hand_over": "peer"}, MAP + LABEL, MAP, 3),
  ],
)
def test_turns_equal_centralised_training(name, options, up, down, trips, data):
  """Alg. 1 and 2, U-shape, relays: weights, statistics and momentum; counts against hand counts."""
  model = net(name)
  variables = initial(model)
  rules, turns = algorithm(model, configure(SplitConfig, LOCAL, **options, local_steps=2))
  contexts = [RoundContext(data, np.int32(r), rate, KEY) for r, rate in enumerate(RATES)]
  orders = [np.asarray(rules.order(context, 3)).tolist() for context in contexts]
  whole, opt_state = centralised(model, LOCAL, variables, data, RATES, 2, orders)
  servers, clients, metrics = run_rounds(turns, variables, data, RATES)
  chex.assert_trees_all_close(at(servers.variables, -1), whole, atol=2e-6)
  chex.assert_trees_all_close(momenta(at(servers.opt_states, -1)), momenta(opt_state), atol=2e-6)
  moved = optax.tree.sub(whole["params"], variables["params"])
  assert optax.tree.norm(moved, squared=True) > 1e-4
  assert list(at(clients.turns, -1)) == [2, 2, 2]

  assert int(metrics.examples.sum()) == ROWS.sum()
  parts = rules.begin(at(servers, -1), at(at(clients, -1), 0))
  client_parts = [parts[index] for index in rules.plan.owned_by("alice")]
  # Every turn but the first has a hand-over, unless the same client trained before.
  hand_overs = 5 - (orders[0][-1] == orders[1][0])
  hand_over_bytes = hand_overs * tree_leaves.num_bytes(client_parts)
  hand_over_bytes += 16 if "handed_over" in options else 0
  sent = turns.sent(at(servers, -1))
  assert sent.bytes_up == ROWS.sum() * up + hand_over_bytes
  assert sent.bytes_down == ROWS.sum() * down + hand_over_bytes
  assert sent.round_trips == 12 * trips + 2 * hand_overs
  assert sum(row["bytes_up"] for row in turns.report.client_rows(at(clients, -1))) == sent.bytes_up
  relayed = ROWS.sum() * (2 * (MAP + FLAT) + 2 * LABEL) if "relays" in options else 0
  assert int(servers.tally.relayed.low[-1]) == relayed


def test_every_round_shuffles_the_turns(data):
  rules, _ = algorithm(net("none"), configure(SplitConfig, LOCAL, turn_order="shuffled"))
  contexts = [RoundContext(data, np.int32(r), np.float32(0), KEY) for r in range(6)]
  orders = [tuple(np.asarray(rules.order(context, 5)).tolist()) for context in contexts]
  assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
  assert len(set(orders)) > 3


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("gn", {"client_momentum": "global"}),
    ("bn", {"batch_stats": "moments", "client_momentum": "local"}),
  ],
)
def test_splitfed_v1_equals_fedavg_of_the_cut_model(name, options, data):
  model = net(name)
  variables = initial(model)
  _, parallel = algorithm(model, configure(V1, LOCAL, cut="conv", local_steps=2, **options))
  config = configure(FedAvgConfig, LOCAL, local_steps=2, **options)
  averaged = built(FEDAVG, config, model, create("scan", num_clients=3), data, scaled, SHAPE)
  ours, states, _ = run_rounds(parallel, variables, data, RATES)
  theirs, _, _ = run_rounds(averaged, variables, data, RATES)
  chex.assert_trees_all_close(ours.variables, theirs.variables, atol=2e-6)
  # Two steps and the average.
  assert parallel.cost.of_round([2, 2, 2]).round_trips == 3
  weights = tree_leaves.num_bytes([variables["params"][k] for k in ("Conv_0", "Norm_0")])
  stats = tree_leaves.num_bytes(variables.get("batch_stats", {}).get("Norm_0", {}))
  each = weights * (2 if name == "gn" else 1) + stats
  assert int(ours.tally.down.low[-1]) == ROWS.sum() * MAP + 6 * each
  assert at(states.tally.down.low, -1).sum() == int(ours.tally.down.low[-1])


def test_splitfed_v2_keeps_one_server_part(data):
  """The server part trains with the clients sequentially; the client parts are averaged.

  Under ``batch_stats='local'`` the statistics of the clients' stages stay on the clients.
  """
  model = net("bn")
  variables = initial(model)
  config = configure(V2, LOCAL, cut="conv", local_steps=2, batch_stats="local")
  _, turns = algorithm(model, config)
  servers, clients, _ = run_rounds(turns, variables, data, RATES[:1])
  client_layers = {"Conv_0", "Norm_0"}
  # The reference trains the whole model in each turn, starting from the same client part.
  turn, sgd = make_turn(model, LOCAL, 2), optimizer(LOCAL)
  heads, local_stats, current = [], [], variables
  momentum = sgd.init(variables["params"])
  for row in range(3):
    start = {
      kind: {k: (variables if k in client_layers else current)[kind][k] for k in variables[kind]}
      for kind in variables
    }
    reset = {
      k: jnp.zeros_like(v) for k, v in momenta(momentum).items() if k.split("/")[0] in client_layers
    }
    momentum = jax.tree.map(
      lambda s, reset=reset: (
        s._replace(trace=tree_leaves.put(s.trace, reset)) if isinstance(s, optax.TraceState) else s
      ),
      momentum,
      is_leaf=lambda s: isinstance(s, optax.TraceState),
    )
    current, momentum = turn(start, momentum, data, row, 0, RATES[0])
    heads.append({k: current["params"][k] for k in client_layers})
    local_stats.append(current["batch_stats"]["Norm_0"])
  weights = np.array(SIZES) / sum(SIZES)
  mean = jax.tree.map(lambda *a: sum(w * x for w, x in zip(weights, a, strict=True)), *heads)
  server = at(servers.variables, -1)
  chex.assert_trees_all_close(server["params"], {**current["params"], **mean}, atol=3e-6)
  chex.assert_trees_all_close(
    server["batch_stats"],
    {**current["batch_stats"], "Norm_0": variables["batch_stats"]["Norm_0"]},
    atol=3e-6,
  )
  for row, expected in enumerate(local_stats):
    state = jax.tree.map(lambda a, row=row: a[-1, row], clients)
    stats = turns.views.client(at(servers, -1), state)["batch_stats"]
    chex.assert_trees_all_close(stats["Norm_0"], expected, atol=3e-6)


def test_autoencoder_adds_its_gradient(data):
  """eta = F_b^T(gradient) + alpha F_d^T(gradient_enc); only the first term needs labels (eq. 1)."""
  alpha, local = 0.7, dataclasses.replace(LOCAL, momentum=0.0, nesterov=False)
  labels = np.where(np.arange(len(data.labels)) % 3 == 0, data.labels, -1).astype(np.int32)
  data = data._replace(labels=labels, targets=labels)
  model = net("bn")
  variables = initial(model)
  rules, turns = algorithm(
    model, configure(SplitConfig, local, cut="conv", autoencoder=alpha), seed=3
  )
  servers, clients, metrics = run_rounds(turns, variables, data, RATES[:1], clients=[1])
  batch = draw(data, 1, np.int32(0), local.batch_size, scaled, KEY)
  known = np.asarray((batch.labels >= 0) & (batch.mask > 0))
  assert 0 < known.sum() < 4
  context = RoundContext(data, np.int32(0), RATES[0], KEY)
  key = jax.random.fold_in(turn_key(context.key, context.round, context.data.clients[1]), 0)
  decoder, start = Decoder(SHAPE), rules.init(variables).decoder["params"]

  def losses(params, decoder_params):
    mode = Mode(train=True, mask=batch.mask, step=jnp.float32(0))
    mutable, rngs = ["batch_stats"], {"dropout": key}
    x, _ = model.apply(
      {**variables, "params": params}, batch.images, mode, 0, 2, mutable=mutable, rngs=rngs
    )
    order = np.concatenate([np.flatnonzero(known), np.flatnonzero(~known)])
    server = mode._replace(mask=jnp.asarray(known[order], jnp.float32))
    logits, _ = model.apply(
      {**variables, "params": params}, x[order], server, 2, None, mutable=mutable, rngs=rngs
    )
    labels = batch.labels[order][: known.sum()]
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits[: known.sum()], labels).mean()
    image = decoder.apply({"params": decoder_params}, x, Mode(train=True))
    return entropy, ((image - batch.images) ** 2).mean((1, 2, 3)).mean()

  def total(params, weight):
    entropy, error = losses(params, start)
    return entropy + weight * error

  slopes = jax.jit(jax.grad(total))
  for part, weight in (("Conv_0", alpha), ("Dense_0", 0.0)):
    grads = slopes(variables["params"], weight)[part]
    decayed = optax.tree.add(grads, optax.tree.scale(local.weight_decay, variables["params"][part]))
    expected = optax.tree.sub(variables["params"][part], optax.tree.scale(RATES[0], decayed))
    chex.assert_trees_all_close(at(servers.variables["params"], -1)[part], expected, atol=2e-6)
  error, grads = jax.jit(jax.value_and_grad(lambda d: losses(variables["params"], d)[1]))(start)
  decayed = optax.tree.add(grads, optax.tree.scale(local.weight_decay, start))
  expected = optax.tree.sub(start, optax.tree.scale(RATES[0], decayed))
  chex.assert_trees_all_close(at(servers.decoder["params"], -1), expected, atol=2e-6)
  np.testing.assert_allclose(servers.reconstruction[-1], error, rtol=1e-5)
  assert int(metrics.examples[-1]) == known.sum()
  assert int(at(clients.tally.examples.low, -1)[0]) == 4
  assert int(at(clients.tally.exchanged.low, -1)[0]) == known.sum()


def test_unlabelled_batches_do_not_change_the_server_part(data):
  data = data._replace(targets=np.full_like(data.labels, -1))
  model = net("bn")
  variables = initial(model)
  _, turns = algorithm(model, configure(SplitConfig, LOCAL, cut="conv", autoencoder=1.0))
  servers, _, _ = run_rounds(turns, variables, data, RATES[:1])
  after = at(servers.variables, -1)
  server_layers = {k for k in variables["params"] if k not in ("Conv_0", "Norm_0")}
  for kind in ("params", "batch_stats"):
    for name in server_layers & set(variables[kind]):
      chex.assert_trees_all_equal(after[kind][name], variables[kind][name])
  assert np.abs(after["params"]["Conv_0"]["kernel"] - variables["params"]["Conv_0"]["kernel"]).max()
  assert int(servers.tally.up.low[-1]) == 2 * _hand_over_bytes(variables)
  assert int(servers.tally.trips.low[-1]) == 2 * 2


def _hand_over_bytes(variables) -> int:
  """Returns the bytes of conv and the decoder: weights, momentum and statistics."""
  weights = [variables["params"][k] for k in ("Conv_0", "Norm_0")]
  decoder = Decoder(SHAPE).init(KEY, jnp.zeros((1, 3, 3, 4)), Mode())["params"]
  stats = tree_leaves.num_bytes(variables["batch_stats"]["Norm_0"])
  return 2 * tree_leaves.num_bytes([weights, decoder]) + stats


def test_local_statistics_with_an_autoencoder(data):
  rules, turns = algorithm(
    net("bn"), configure(SplitConfig, LOCAL, autoencoder=0.5, batch_stats="local")
  )
  state = rules.init(initial(net("bn")))
  client = rules.init_client(state)
  stats = jax.tree.map(lambda a: a + 1, client.batch_stats)
  viewed = turns.views.client(state, client._replace(batch_stats=stats))["batch_stats"]
  chex.assert_trees_all_equal(viewed["Norm_0"], stats[0]["Norm_0"])
  chex.assert_trees_all_equal(viewed["Norm_1"], state.variables["batch_stats"]["Norm_1"])
