"""A small model to cut, and a reference that trains the whole model on the same batches."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from helpers.norm_rows import ROWS
from helpers.settings import plain, setup_of
from helpers.step_world import KEY

from fedjax_norm import norm, tree_leaves
from fedjax_norm.algorithms.round_algorithm import RoundContext
from fedjax_norm.client_mapping import create
from fedjax_norm.data.federated import draw
from fedjax_norm.local_training import make_gradient, optimizer
from fedjax_norm.models.layers import Conv, Dense
from fedjax_norm.models.stages import Stage, Staged
from fedjax_norm.norm import Mode, Norm, NormSpec
from fedjax_norm.split.algorithm import split, turn_key
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.rules import make_rules

SHAPE = (6, 6, 1)
IMAGE = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
LABEL = jax.ShapeDtypeStruct((), jnp.int32)
SIZES = (9, 7, 12)
LOCAL = plain(batch_size=4, momentum=0.9, nesterov=True, weight_decay=1e-2)


class Net(Staged):
  """Small stages: shift (no parameters), conv, mix with dropout, body and head."""

  norm: NormSpec
  num_classes: int = 4

  def stages(self) -> Sequence[Stage]:
    def shift(x, mode: Mode):
      return x - 0.5

    def conv(x, mode: Mode):
      x = Conv(4, (2, 2), self.norm, strides=(2, 2), name="Conv_0")(x, mode)
      return jax.nn.relu(Norm(self.norm, name="Norm_0")(x, mode))

    def mix(x, mode: Mode):
      x = Dense(4, self.norm, name="Mix_0")(x, mode)
      x = jax.nn.relu(Norm(self.norm, name="Norm_1")(x, mode))
      fixed = not (mode.train and mode.dropout)
      return nn.Dropout(0.2, deterministic=fixed, name="Dropout_0")(x)

    def body(x, mode: Mode):
      return jax.nn.relu(Dense(6, self.norm, name="Dense_0")(x.reshape(len(x), -1), mode))

    def head(x, mode: Mode):
      return Dense(self.num_classes, self.norm, name="Dense_1")(x, mode)

    return ("shift", shift), ("conv", conv), ("mix", mix), ("body", body), ("head", head)


def net(name: str) -> Net:
  """Returns the model with a norm; ``frozen`` is FixBN's second stage."""
  spec = (
    norm.create("fixbn").frozen()
    if name == "frozen"
    else ROWS[name].spec(name, **_OPTIONS.get(name, {}))
  )
  return Net(spec)


_OPTIONS = {"brn": {"renorm": norm.Renorm(3.0, 5.0, 0.0, 1.0, 1.0)}}


def initial(model: Net):
  """Returns initial variables, with running statistics that suit a frozen norm."""
  variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, *SHAPE)), Mode()))(KEY)
  if "batch_stats" in variables:
    stats = jax.tree.map(lambda a: a + 0.1, variables["batch_stats"])
    variables = {**variables, "batch_stats": stats}
  return variables


def scaled(images, ids, strength, noise_key, step_key):
  """Returns images unchanged: the transform of these tests."""
  return images


def algorithm(model: Net, config: SplitConfig, seed: int = 0, nodes=None):
  """Returns (rules, algorithm) for a config."""
  rules = make_rules(model, config, IMAGE, LABEL, seed)
  nodes = nodes or create("scan", num_clients=len(SIZES))
  return rules, split(rules, config, setup_of(model, nodes, None, scaled, SHAPE, seed=seed))


def make_turn(model: Net, local, steps: int):
  """Returns a function that takes a client's local steps with the whole model.

  It maps (variables, optimizer state, data, row, round, rate) to (variables, optimizer state).
  """
  sgd, gradient = optimizer(local), make_gradient(model, local)

  @jax.jit
  def step(variables, opt_state, data, row, round_, index, rate):
    context = RoundContext(data, round_, rate, KEY)
    step_index = round_ * steps + index
    batch = draw(data, row, step_index, local.batch_size, scaled, KEY)
    key = jax.random.fold_in(turn_key(context.key, context.round, context.data.clients[row]), index)
    stats = variables.get("batch_stats", {})
    grads, stats, _ = gradient(variables["params"], stats, batch, step_index / steps, key)
    updates, opt_state = sgd.update(grads, opt_state, variables["params"])
    params = optax.apply_updates(variables["params"], optax.tree.scale(-rate, updates))
    return {"params": params, **({"batch_stats": stats} if stats else {})}, opt_state

  def turn(variables, opt_state, data, row, round_, rate):
    for index in range(steps):
      variables, opt_state = step(
        variables, opt_state, data, np.int32(row), np.int32(round_), np.int32(index), rate
      )
    return variables, opt_state

  return turn


def centralised(model: Net, local, variables, data, rates, steps: int, orders):
  """Trains the whole model on the clients' batches sequentially; returns (variables, opt_state)."""
  turn, opt_state = make_turn(model, local, steps), optimizer(local).init(variables["params"])
  for round_, (rate, order) in enumerate(zip(rates, orders, strict=True)):
    for row in order:
      variables, opt_state = turn(variables, opt_state, data, row, round_, rate)
  return variables, opt_state


def momenta(opt_states) -> dict:
  """Returns the momentum of every weight by path, from one or several optimizer states."""
  momentum = {}
  for state in jax.tree.leaves(opt_states, is_leaf=lambda s: isinstance(s, optax.TraceState)):
    if isinstance(state, optax.TraceState):
      momentum |= tree_leaves.flatten(state.trace)
  return momentum
