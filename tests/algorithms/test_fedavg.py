"""FedAvg and its options against the slow reference, and the options that it refuses."""

import dataclasses

import helpers.reference_fedavg as reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.fedavg_world import (
  FOUR,
  HEAVY,
  KEY,
  OPTIONS,
  RATES,
  SCAN,
  SHAPE,
  SOME,
  Fast,
  random_variables,
  same_bits,
  slow,
)
from helpers.reference_fedavg import close, distance, flat
from helpers.settings import built, configure

from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.errors import UserError

# Options that must have another result than OPTIONS, or the test below would prove nothing.
CHANGES = {
  "uniform": {"weighting": "examples"},
  "momentum reset, epochs": {"local_epochs": 2},
  "momentum local": {"client_momentum": "reset"},
  "momentum global, processed": {"client_momentum": "local"},
  "nesterov, clip": {"nesterov": False},
  "clip, decay": {"clip_norm": 0.0},
  "prox, clip": {"prox": 0.0},
}


MIXED = ("momentum global, processed", "prox, clip")


CASES = [("bn", option) for option in OPTIONS]
CASES += [(name, option) for name in ("gn", "frozen") for option in MIXED]


@pytest.mark.parametrize(("name", "option"), CASES)
def test_equals_the_reference(world, name, option):
  fast = world.fast(name, OPTIONS[option])
  server, clients, metrics = fast.run()
  expected = slow(fast)
  close(server.variables["params"], expected.params)
  if name != "gn":
    close(server.variables["batch_stats"], expected.stats)
  assert metrics.examples == expected.examples
  if OPTIONS[option].client_momentum == "local":
    for k, client in enumerate(expected.clients):
      mine = jax.tree.map(lambda a, k=k: a[k], clients.momentum)
      close(optax.tree.get(mine, "trace"), client.trace)
  if OPTIONS[option].client_momentum == "global":
    close(optax.tree.get(server.momentum, "trace"), expected.trace)


@pytest.mark.parametrize("option", OPTIONS)
def test_options_change_the_result(world, option):
  # Uses the reference only, which the library equals by the test above.
  cases = (OPTIONS[option], dataclasses.replace(OPTIONS[option], **CHANGES[option]))
  model, data, transform = world.model("bn"), world.data(), world.transform()
  variables = random_variables(model)
  one, other = (
    reference.fedavg(model, config, data, transform, variables, SOME, RATES, KEY)
    for config in cases
  )
  assert distance(one.params, other.params) > 1e-4


def test_rounds_of_a_single_client_are_consecutive_steps_of_sgd(world):
  model, data, transform = world.model("bn"), world.data((10,)), world.transform()
  batch = reference.batch_drawer(data, 4, transform, KEY)
  variables = random_variables(model)
  w, stats = flat(variables["params"]), flat(variables["batch_stats"])
  trace = {path: np.zeros_like(leaf) for path, leaf in w.items()}
  for step in range(6):
    grads, stats = reference.batch_gradient(model, w, stats, batch(0, step))
    w, trace = reference.sgd_step(HEAVY, w, trace, grads, w, 0.2)
  for steps, rounds in ((2, 3), (6, 1)):
    config = configure(FedAvgConfig, HEAVY, local_steps=steps, client_momentum="local")
    fast = Fast(model, config, data, transform)
    server, clients, _ = fast.run([[0]] * rounds, [0.2] * rounds)
    close(server.variables["params"], w)
    close(server.variables["batch_stats"], stats)
    close(optax.tree.get(jax.tree.map(lambda a: a[0], clients.momentum), "trace"), trace)


def adagrad_by_hand(rate, tau):
  """Returns FedAdagrad's server step (Reddi et al. 2021, Alg. 2), with tau under the root."""

  def server(params, change, state):
    squares = {k: d**2 + (state[k] if state else 0.0) for k, d in change.items()}
    params = {k: w + rate * change[k] / np.sqrt(squares[k] + tau**2) for k, w in params.items()}
    return params, squares

  return server


def by_optax(optimizer):
  """Returns the server step in which the gradient of optax is the negated mean change."""

  def server(params, change, state):
    params = jax.tree.map(jnp.float32, params)
    gradient = jax.tree.map(lambda d: jnp.float32(-d), change)
    updates, state = optimizer.update(gradient, state or optimizer.init(params), params)
    return {k: np.float64(w) for k, w in optax.apply_updates(params, updates).items()}, state

  return server


SERVERS = {
  "momentum": (0.5, by_optax(optax.sgd(0.5, momentum=0.8))),
  "adam": (0.01, by_optax(optax.adam(0.01, b1=0.9, b2=0.99, eps=1e-3))),
  "yogi": (0.01, by_optax(optax.yogi(0.01, b1=0.9, b2=0.99, eps=1e-3))),
  "adagrad": (0.01, adagrad_by_hand(0.01, 1e-3)),
}


@pytest.mark.parametrize("name", SERVERS)
def test_the_gradient_of_the_server_optimizer_is_the_negated_mean_change(world, name):
  rate, by_hand = SERVERS[name]
  options = {"server_momentum": 0.8} if name == "momentum" else {}
  config = configure(
    FedAvgConfig, FOUR, local_steps=2, server_optimizer=name, server_lr=rate, **options
  )
  fast = world.fast("gn", config)
  server, _, _ = fast.run()
  close(server.variables["params"], slow(fast, server=by_hand).params)


def test_frozen_paths_do_not_change(world):
  frozen = frozenset({"Norm_0/scale", "Norm_0/bias"})
  local = dataclasses.replace(HEAVY, clip_norm=0.5, frozen_paths=frozen)
  config = configure(FedAvgConfig, local, prox=0.1, local_steps=2)
  fast = world.fast("frozen", config)
  before = fast.begin()[0].variables
  server, _, _ = fast.run()
  same_bits(server.variables["params"]["Norm_0"], before["params"]["Norm_0"])
  same_bits(server.variables["batch_stats"], before["batch_stats"])
  close(server.variables["params"], slow(fast).params)
  for layer in ("Conv_0", "Dense_0"):
    assert distance(server.variables["params"][layer], before["params"][layer]) > 1e-3


@pytest.mark.parametrize(
  ("name", "options", "words"),
  [
    ("gn", {"batch_stats": "moments"}, "keeps no running statistics"),
    ("fixbn", {"batch_stats": "local"}, "freezes global statistics"),
    ("fixbn", {"batch_stats": "local", "fedbn": True}, "freezes global statistics"),
    ("sync_bn", {}, "lock-step"),
    ("bn", {"fedbn": True, "batch_stats": "mean"}, "--fedbn stores"),
    ("bn", {"fedbn": True, "batch_stats": "local", "client_momentum": "global"}, "averaged"),
    ("bn", {"momentum": 0.0, "client_momentum": "local"}, "needs --momentum"),
    ("bn", {"local_steps": 1, "local_epochs": 1}, "exclude each other"),
    ("bn", {"local_steps": 0}, "at least 1"),
    ("bn", {"server_lr": 0.0}, "above 0"),
    ("bn", {"prox": 0.1, "local_steps": 1}, "prox"),
    ("sync_bn", {"batch_stats": "recalibrate"}, "recalibrate"),
    ("bn", {"weighting": "size"}, "unknown weighting 'size'"),
  ],
)
def test_contradicting_options_are_refused(world, name, options, words):
  def build():
    config = configure(FedAvgConfig, HEAVY, **{"local_steps": 2, **options})
    return built(FEDAVG, config, world.model(name), SCAN, world.data(), world.transform(), SHAPE)

  with pytest.raises(UserError, match=words):
    build()
