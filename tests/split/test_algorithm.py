"""Split learning is training the whole model on the same batches, whoever holds what."""

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
from fedjax_norm.algorithms.contract import RoundContext
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.client_mapping import create
from fedjax_norm.data.federated import draw
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import optimizer
from fedjax_norm.models.decoder import Decoder
from fedjax_norm.norm import Mode
from fedjax_norm.options import with_defaults
from fedjax_norm.split.algorithm import turn_key
from fedjax_norm.split.config import SplitConfig

RATES = np.array([0.1, 0.05], np.float32)
V1, V2 = (with_defaults(SplitConfig, variant=f"splitfed_v{n}") for n in (1, 2))
# Of 9, 7 and 12 examples two rounds of two steps by 4 see: 4+4+1+4, 4+3+4+3, 4*4.
ROWS = np.array([13, 14, 16])
MAP, FLAT, LABEL = 3 * 3 * 4 * 4, 6 * 4, 4  # bytes of conv's or mix's output, of body's, of a label


@pytest.fixture(scope="module")
def data(tiny_source):
  return skewed(tiny_source, SIZES)


@pytest.mark.parametrize(
  ("name", "options", "up", "down", "trips"),
  [
    # The U-shape: no labels; body's output comes down, its gradient goes up.
    ("bn", {"cut": "conv", "tail": "body"}, MAP + FLAT, MAP + FLAT, 2),
    ("gn", {"cut": "conv", "turn_order": "shuffled"}, MAP + LABEL, MAP, 1),
    ("brn", {"cut": "body", "handed_over": "updates"}, FLAT + LABEL, FLAT, 1),
    ("frozen", {"cut": "conv", "relays": "mix,body", "hand_over": "peer"}, MAP + LABEL, MAP, 3),
  ],
)
def test_turns_are_centralised_training(name, options, up, down, trips, data):
  """Alg. 1 and 2, the U-shape and relays: weights, statistics, momentum; and the ledger by hand."""
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
  own = [
    rules.begin(at(servers, -1), at(at(clients, -1), 0))[k] for k in rules.plan.owned_by("alice")
  ]
  gets = 5 - (orders[0][-1] == orders[1][0])  # all turns but the first, and one after one's own
  handed = gets * tree_leaves.num_bytes(own) + (16 if "handed_over" in options else 0)
  sent = turns.sent(at(servers, -1))
  assert sent.bytes_up == ROWS.sum() * up + handed
  assert sent.bytes_down == ROWS.sum() * down + handed
  assert sent.round_trips == 12 * trips + 2 * gets
  assert sum(row["bytes_up"] for row in turns.report.client_rows(at(clients, -1))) == sent.bytes_up
  relayed = ROWS.sum() * (2 * (MAP + FLAT) + 2 * LABEL) if "relays" in options else 0
  assert int(servers.tally.relayed.low[-1]) == relayed


def test_turns_are_shuffled_anew_every_round(data):
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
def test_splitfed_v1_is_fedavg_of_the_cut_model(name, options, data):
  model = net(name)
  variables = initial(model)
  _, parallel = algorithm(model, configure(V1, LOCAL, cut="conv", local_steps=2, **options))
  config = configure(FedAvgConfig, LOCAL, local_steps=2, **options)
  averaged = built(FEDAVG, config, model, create("scan", num_clients=3), data, scaled, SHAPE)
  ours, states, _ = run_rounds(parallel, variables, data, RATES)
  theirs, _, _ = run_rounds(averaged, variables, data, RATES)
  chex.assert_trees_all_close(ours.variables, theirs.variables, atol=2e-6)
  # Two steps of the slowest client, and the average.
  assert parallel.cost.of_round([2, 2, 2]).round_trips == 3
  own = tree_leaves.num_bytes([variables["params"][k] for k in ("Conv_0", "Norm_0")])
  stats = tree_leaves.num_bytes(variables.get("batch_stats", {}).get("Norm_0", {}))
  each = own * (2 if name == "gn" else 1) + stats
  assert int(ours.tally.down.low[-1]) == ROWS.sum() * MAP + 6 * each
  assert at(states.tally.down.low, -1).sum() == int(ours.tally.down.low[-1])


def test_splitfed_v2_keeps_one_server_part(data):
  """Bob's part sees the clients one after another, theirs begin alike and are averaged.

  Under ``batch_stats='local'`` the clients keep the statistics of their stages.
  """
  model = net("bn")
  variables = initial(model)
  config = configure(V2, LOCAL, cut="conv", local_steps=2, batch_stats="local")
  _, turns = algorithm(model, config)
  servers, clients, _ = run_rounds(turns, variables, data, RATES[:1])
  mine = {"Conv_0", "Norm_0"}
  # The slow way: each client's turn with the whole model, from the common client part.
  turn, sgd = make_turn(model, LOCAL, 2), optimizer(LOCAL)
  heads, own_stats, current = [], [], variables
  momentum = sgd.init(variables["params"])
  for row in range(3):
    start = {
      kind: {k: (variables if k in mine else current)[kind][k] for k in variables[kind]}
      for kind in variables
    }
    forgotten = {
      k: jnp.zeros_like(v) for k, v in momenta(momentum).items() if k.split("/")[0] in mine
    }
    momentum = jax.tree.map(
      lambda s, forgotten=forgotten: (
        s._replace(trace=tree_leaves.put(s.trace, forgotten))
        if isinstance(s, optax.TraceState)
        else s
      ),
      momentum,
      is_leaf=lambda s: isinstance(s, optax.TraceState),
    )
    current, momentum = turn(start, momentum, data, row, 0, RATES[0])
    heads.append({k: current["params"][k] for k in mine})
    own_stats.append(current["batch_stats"]["Norm_0"])
  weights = np.array(SIZES) / sum(SIZES)
  mean = jax.tree.map(lambda *a: sum(w * x for w, x in zip(weights, a, strict=True)), *heads)
  server = at(servers.variables, -1)
  chex.assert_trees_all_close(server["params"], {**current["params"], **mean}, atol=3e-6)
  chex.assert_trees_all_close(
    server["batch_stats"],
    {**current["batch_stats"], "Norm_0": variables["batch_stats"]["Norm_0"]},
    atol=3e-6,
  )
  for row, expected in enumerate(own_stats):
    state = jax.tree.map(lambda a, row=row: a[-1, row], clients)
    seen = turns.views.client(at(servers, -1), state)["batch_stats"]
    chex.assert_trees_all_close(seen["Norm_0"], expected, atol=3e-6)


def test_autoencoder_adds_its_gradient(data):
  """eta = F_b^T(gradient) + alpha F_d^T(gradient_enc), of which only Bob's needs labels (eq. 1)."""
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
    places = np.concatenate([np.flatnonzero(known), np.flatnonzero(~known)])
    bob = mode._replace(mask=jnp.asarray(known[places], jnp.float32))
    logits, _ = model.apply(
      {**variables, "params": params}, x[places], bob, 2, None, mutable=mutable, rngs=rngs
    )
    right = batch.labels[places][: known.sum()]
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits[: known.sum()], right).mean()
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


def test_unlabelled_batches_leave_the_server_alone(data):
  data = data._replace(targets=np.full_like(data.labels, -1))
  model = net("bn")
  variables = initial(model)
  _, turns = algorithm(model, configure(SplitConfig, LOCAL, cut="conv", autoencoder=1.0))
  servers, _, _ = run_rounds(turns, variables, data, RATES[:1])
  after = at(servers.variables, -1)
  bobs = [k for k in variables["params"] if k not in ("Conv_0", "Norm_0")]
  for kind in ("params", "batch_stats"):
    for name in set(bobs) & set(variables[kind]):
      chex.assert_trees_all_equal(after[kind][name], variables[kind][name])
  assert np.abs(after["params"]["Conv_0"]["kernel"] - variables["params"]["Conv_0"]["kernel"]).max()
  assert int(servers.tally.up.low[-1]) == 2 * _handed(variables)
  assert int(servers.tally.trips.low[-1]) == 2 * 2


def _handed(variables) -> int:
  """The bytes of a hand-over: conv1's weights, their momentum and statistics, and the decoder's."""
  own = [variables["params"][k] for k in ("Conv_0", "Norm_0")]
  decoder = Decoder(SHAPE).init(KEY, jnp.zeros((1, 3, 3, 4)), Mode())["params"]
  stats = tree_leaves.num_bytes(variables["batch_stats"]["Norm_0"])
  return 2 * tree_leaves.num_bytes([own, decoder]) + stats


@pytest.mark.parametrize(
  ("kind", "options", "says"),
  [
    (SplitConfig, {"cut": "shift"}, "before the first stage with parameters"),
    (SplitConfig, {"cut": "head"}, "is the last"),
    (SplitConfig, {"cut": "conv9"}, "conv, mix, body"),
    (SplitConfig, {"cut": "mix", "tail": "conv"}, "do not follow one another"),
    (SplitConfig, {"cut": "conv", "relays": "mix", "hand_over": "peer"}, "see both ends"),
    (
      SplitConfig,
      {"cut": "conv", "tail": "body", "relays": "mix,body", "hand_over": "peer"},
      "drop the tail",
    ),
    (
      SplitConfig,
      {"cut": "conv", "relays": "mix,body", "hand_over": "centralised"},
      "hand_over=peer",
    ),
    (V1, {"turn_order": "shuffled"}, "no order"),
    (SplitConfig, {"client_momentum": "local"}, "hand their momentum over"),
    (V2, {"handed_over": "updates"}, "not updates"),
    (SplitConfig, {"local_steps": 1, "local_epochs": 1}, "exclude each other"),
    (SplitConfig, {"batch_stats": "moments"}, "nothing to average"),
    (SplitConfig, {"autoencoder": 0.0}, "must be above 0"),
    (SplitConfig, {"accumulate": 2}, "as a whole"),
  ],
)
def test_what_cannot_be_is_refused(kind, options, says):
  with pytest.raises(UserError, match=says):
    algorithm(net("bn"), configure(kind, LOCAL, **options))


def test_weight_normalization_has_no_seed():
  with pytest.raises(UserError, match="not on the seed alone"):
    algorithm(net("wn"), configure(SplitConfig, LOCAL, handed_over="updates"))


def test_clients_keep_statistics_beside_an_autoencoder(data):
  rules, turns = algorithm(
    net("bn"), configure(SplitConfig, LOCAL, autoencoder=0.5, batch_stats="local")
  )
  state = rules.init(initial(net("bn")))
  client = rules.init_client(state)
  stats = jax.tree.map(lambda a: a + 1, client.batch_stats)
  mine = turns.views.client(state, client._replace(batch_stats=stats))["batch_stats"]
  chex.assert_trees_all_equal(mine["Norm_0"], stats[0]["Norm_0"])
  chex.assert_trees_all_equal(mine["Norm_1"], state.variables["batch_stats"]["Norm_1"])


def test_joint_batch_norms_are_refused():
  with pytest.raises(UserError, match="one client at a time"):
    algorithm(net("sync_bn"), configure(SplitConfig, LOCAL, cut="conv"))
