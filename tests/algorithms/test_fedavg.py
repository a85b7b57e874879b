"""FedAvg against a slow reference, against centralised SGD, against PyTorch and against itself."""

import dataclasses
import functools

import helpers.reference_fedavg as reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from helpers import norm_rows
from helpers.reference_fedavg import flat
from helpers.settings import built, configure, plain

from fedjax_norm import client_mapping, norm
from fedjax_norm.algorithms.batch_statistics import DataPart, make_recalibrate
from fedjax_norm.algorithms.costs.ledger import Traffic
from fedjax_norm.algorithms.fedavg import FEDAVG, FedAvgConfig
from fedjax_norm.data.federated import federate
from fedjax_norm.data.partitions.registry import Partition
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms
from fedjax_norm.errors import UserError
from fedjax_norm.local_training import Metrics
from fedjax_norm.models.resnet import ResNet
from fedjax_norm.training.build_program import make_program
from fedjax_norm.training.config.train import config_of
from fedjax_norm.training.placement.client_states import ClientStore
from fedjax_norm.training.placement.device_arrays import placer
from fedjax_norm.training.rounds import compile_interval
from fedjax_norm.training.task.task import make_task

SHAPE = (6, 6, 1)
SIZES = (5, 9, 12, 4)  # with batches of 4: 2, 3, 3 and 1 steps an epoch, the last ones padded
ALL = [list(range(len(SIZES)))] * 3
SOME = [[2, 0], [3, 1], [1, 2]]
RATES = [0.2, 0.1, 0.3]
KEY = jax.random.key(7)
random_variables = functools.partial(reference.random_variables, image_shape=SHAPE)
NORMS = ["Norm_0"]
SPECS = {
  **norm_rows.SPECS,
  "bgn": norm.create("bgn", groups=2, decay=0.5),  # so that the policies differ
  "frozen": norm.create("fixbn").frozen(),
}
FOUR = plain(batch_size=4)
HEAVY = dataclasses.replace(FOUR, momentum=0.9, weight_decay=5e-3)
SCAN = client_mapping.create("scan", num_clients=4)
KEPT = {"momentum reset": "reset", "momentum local": "local", "momentum global": "global"}


@dataclasses.dataclass(frozen=True)
class World:
  """A federation of the tiny images."""

  source: object
  net: type
  transforms: dict
  compiled: dict

  def data(self, sizes=SIZES):
    ids = np.random.default_rng(3).permutation(len(self.source.train.labels))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return federate(self.source.train, Partition(ids[: offsets[-1]], offsets))

  def transform(self, augment=False):
    return self.transforms[augment]

  def model(self, name, **fields):
    if name == "fixup":
      return ResNet((1, 1), 4, SPECS[name], 4)
    return self.net(norm=SPECS[name], **fields)

  def fast(self, name, config, mapping=None, *, sizes=SIZES, augment=False, **fields):
    """A ``Fast`` of these settings; the same one for the same settings, for compiling is slow."""
    arguments = (self.model(name, **fields), config, mapping or SCAN)
    key = (*arguments, sizes, augment)
    if key not in self.compiled:
      model, config, mapping = arguments
      fast = Fast(model, config, self.data(sizes), self.transform(augment), mapping)
      self.compiled[key] = fast
    return self.compiled[key]


@pytest.fixture(scope="module")
def world(tiny_source, tiny_net):
  transforms = {
    augment: make_transforms(
      Preprocess(augment="crop_flip" if augment else "none"), tiny_source.train.images
    )[0]
    for augment in (False, True)
  }
  return World(tiny_source, tiny_net, transforms, {})


@dataclasses.dataclass
class Fast:
  """The library's way through the same rounds, in one compiled interval."""

  model: object
  config: FedAvgConfig
  data: object
  transform: object
  mapping: client_mapping.ClientMapping = SCAN

  def __post_init__(self):
    arguments = (self.model, self.mapping, self.data, self.transform, SHAPE)
    self.algorithm = built(FEDAVG, self.config, *arguments)
    self.interval = compile_interval(self.algorithm, self.mapping)

  def begin(self):
    """(server, clients), host arrays."""
    server = self.algorithm.init(random_variables(self.model))
    store = ClientStore(self.algorithm.init_client(server), self.data.num_clients)
    return jax.tree.map(np.asarray, server), store.arrays

  def arguments(self, cohorts, rates, first=0, begin=0, end=None):
    """What the interval takes after the states; a client is in the row of its own id."""
    cohorts = np.asarray(cohorts, np.int32)
    bounds = np.int32(first), np.int32(begin), np.int32(len(cohorts) if end is None else end)
    rates = np.float32(rates)
    values = (Metrics.zeros(), cohorts, rates, np.zeros_like(rates), *bounds, self.data)
    place = placer(self.mapping)
    return (*map(place, values), place(KEY))

  def run(self, cohorts=SOME, rates=RATES):
    """(server, clients, metrics) after all rounds, host arrays."""
    states = map(placer(self.mapping), self.begin())
    out = self.interval(*states, *self.arguments(cohorts, rates))
    return jax.tree.map(np.asarray, out)


def slow(fast, cohorts=SOME, rates=RATES, **options):
  """The reference on what a ``Fast`` runs."""
  variables = random_variables(fast.model)
  arguments = (fast.model, fast.config, fast.data, fast.transform, variables, cohorts, rates, KEY)
  return reference.fedavg(*arguments, norm_layers=NORMS, **options)


def close(actual, expected, atol=2e-5):
  """Asserts that two trees have the same paths and values."""
  actual, expected = flat(actual), flat(expected)
  assert actual.keys() == expected.keys()
  for path in expected:
    np.testing.assert_allclose(actual[path], expected[path], rtol=1e-4, atol=atol, err_msg=path)


def close_runs(a, b):
  """Asserts that two (server, clients, metrics) are the same to float tolerance."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5)


def same_bits(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def distance(a, b):
  a, b = flat(a), flat(b)
  return max(np.abs(a[path] - b[path]).max() for path in a)


def local(**fields):
  return dataclasses.replace(FOUR, **fields)


OPTIONS = {
  "uniform": configure(FedAvgConfig, FOUR, local_steps=2, weighting="uniform"),
  "momentum reset, epochs": configure(FedAvgConfig, HEAVY, local_epochs=1),
  "momentum local": configure(FedAvgConfig, HEAVY, local_steps=2, client_momentum="local"),
  "momentum global, processed": configure(
    FedAvgConfig, HEAVY, local_epochs=1, weighting="processed", client_momentum="global"
  ),
  "nesterov, clip": configure(
    FedAvgConfig,
    local(momentum=0.8, nesterov=True, clip_norm=0.3),
    local_steps=2,
    client_momentum="local",
  ),
  "clip, decay": configure(FedAvgConfig, local(clip_norm=0.1, weight_decay=0.2), local_steps=2),
  "prox, clip": configure(
    FedAvgConfig, local(clip_norm=0.3, momentum=0.5), prox=2.0, local_steps=3
  ),
}
# What a reader would compare each with; they must differ, or the test below says nothing.
PLAINER = {
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
def test_options_do_something(world, option):
  # by the reference alone, which the test above binds the library to
  cases = (OPTIONS[option], dataclasses.replace(OPTIONS[option], **PLAINER[option]))
  model, data, transform = world.model("bn"), world.data(), world.transform()
  variables = random_variables(model)
  one, other = (
    reference.fedavg(model, config, data, transform, variables, SOME, RATES, KEY)
    for config in cases
  )
  assert distance(one.params, other.params) > 1e-4


def test_one_client_is_plain_sgd_however_its_steps_are_cut_into_rounds(world):
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


def centralised(model, data, transform, config, cohorts, rates):
  """SGD on the joint batch of each round's clients: (params, batch_stats)."""
  batch = reference.batch_drawer(data, config.batch_size, transform, KEY)
  variables = random_variables(model)
  w, stats = flat(variables["params"]), flat(variables.get("batch_stats", {}))
  zeros = {path: np.zeros_like(leaf) for path, leaf in w.items()}
  for step, (cohort, rate) in enumerate(zip(cohorts, rates, strict=True)):
    joint = jax.tree.map(lambda *a: jnp.concatenate(a), *(batch(k, step) for k in cohort))
    grads, stats = reference.batch_gradient(model, w, stats, joint, step)
    w, _ = reference.sgd_step(config, w, zeros, grads, w, rate)
  return w, stats


ONE_STEP = configure(FedAvgConfig, local(weight_decay=5e-3), local_steps=1, weighting="processed")


@pytest.mark.parametrize("name", ["gn", "ln", "in", "cn", "none", "wn", "fixup", "frozen", "bn"])
def test_one_local_step_is_centralised_sgd_unless_the_norm_looks_across_a_batch(world, name):
  fast = world.fast(name, ONE_STEP)
  server, _, _ = fast.run(ALL)
  params, _ = centralised(fast.model, fast.data, fast.transform, ONE_STEP, ALL, RATES)
  if name == "bn":
    assert distance(server.variables["params"], params) > 1e-3
  else:
    close(server.variables["params"], params)
    assert distance(server.variables["params"], random_variables(fast.model)["params"]) > 1e-2


# Three clients do not divide over two devices.
@pytest.mark.parametrize(
  ("backend", "clients"), [("vmap", 3), ("shard_map", 4), ("shard_map", 3), ("pmap", 4)]
)
def test_sync_bn_in_lockstep_is_centralised_bn(world, backend, clients):
  # The clients of 5 and 9 examples bring partly padded batches in the second and third round.
  cohorts = [[2, 0, 1, 3], [3, 1, 0, 2], [0, 2, 1, 3]]
  cohorts = [cohort[:clients] for cohort in cohorts]
  mapping = client_mapping.create(backend, num_clients=clients, lockstep=True)
  fast = world.fast("sync_bn", ONE_STEP, mapping)
  server, _, _ = fast.run(cohorts)
  params, stats = centralised(
    world.model("bn"), fast.data, fast.transform, ONE_STEP, cohorts, RATES
  )
  close(server.variables["params"], params)
  close(server.variables["batch_stats"], stats)


@jax.jit
def joint_gradients(params, batches):
  """Synchronised BN by hand on the tiny network, whose nodes have parameters of their own.

  Returns:
    Each node's gradient of its own mean loss as every node's loss depends on it, and the joint
    batch's mean and unbiased variance.
  """
  masks = [b.mask[:, None, None, None] for b in batches]
  count = 36 * sum(m.sum() for m in masks)

  def joint_loss(params):
    hidden = [
      jax.lax.conv_general_dilated(
        b.images, p["Conv_0"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
      )
      for p, b in zip(params, batches, strict=True)
    ]
    axes = (0, 1, 2)
    mean = sum((h * m).sum(axes) for h, m in zip(hidden, masks, strict=True)) / count
    m2 = sum(((h - mean) ** 2 * m).sum(axes) for h, m in zip(hidden, masks, strict=True))
    loss = 0.0
    for p, h, b in zip(params, hidden, batches, strict=True):
      y = (h - mean) / jnp.sqrt(m2 / count + 1e-5) * p["Norm_0"]["scale"] + p["Norm_0"]["bias"]
      logits = jax.nn.relu(y).mean((1, 2)) @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, b.labels)
      loss += (losses * b.mask).sum()
    return loss, (mean, m2 / (count - 1))

  grads, moments = jax.grad(joint_loss, has_aux=True)(params)
  own = [optax.tree.scale(1 / b.mask.sum(), g) for g, b in zip(grads, batches, strict=True)]
  return own, moments


def test_sync_bn_with_clients_that_finish_early(world):
  # Two steps for client 0 and three for client 1: client 1's last batch is normalized alone.
  config = configure(FedAvgConfig, FOUR, local_epochs=1, weighting="processed")
  mapping = client_mapping.create("shard_map", num_clients=2, lockstep=True)
  fast = world.fast("sync_bn", config, mapping, sizes=(5, 9))
  server, _, metrics = fast.run([[0, 1]], [0.2])
  batch = reference.batch_drawer(fast.data, 4, fast.transform, KEY)
  variables = random_variables(fast.model)
  params = [variables["params"]] * 2
  stats = [flat(variables["batch_stats"])] * 2
  for step in range(3):
    here = [k for k in (0, 1) if step < (2, 3)[k]]
    grads, (mean, var) = joint_gradients([params[k] for k in here], [batch(k, step) for k in here])
    for k, g in zip(here, grads, strict=True):
      params[k] = jax.tree.map(lambda w, d: w - 0.2 * d, params[k], g)
      new = {"Norm_0/mean": mean, "Norm_0/var": var}
      stats[k] = {path: 0.9 * old + 0.1 * np.asarray(new[path]) for path, old in stats[k].items()}
  close(server.variables["params"], reference.weighted_mean([flat(p) for p in params], (5, 9)))
  close(server.variables["batch_stats"], reference.weighted_mean(stats, (5, 9)))
  assert metrics.examples == 14


class TorchTiny(torch.nn.Module):
  """The tiny network at stride 2 in PyTorch, from our variables."""

  def __init__(self, variables):
    super().__init__()
    self.conv = torch.nn.Conv2d(1, 8, 3, stride=2, bias=False)
    self.bn = torch.nn.BatchNorm2d(8)
    self.dense = torch.nn.Linear(8, 4)
    params, stats = variables["params"], variables["batch_stats"]["Norm_0"]
    with torch.no_grad():
      for mine, theirs in (
        (self.conv.weight, params["Conv_0"]["kernel"].transpose(3, 2, 0, 1)),
        (self.bn.weight, params["Norm_0"]["scale"]),
        (self.bn.bias, params["Norm_0"]["bias"]),
        (self.bn.running_mean, stats["mean"]),
        (self.bn.running_var, stats["var"]),
        (self.dense.weight, params["Dense_0"]["kernel"].T),
        (self.dense.bias, params["Dense_0"]["bias"]),
      ):
        mine.copy_(torch.tensor(np.ascontiguousarray(theirs)))

  def forward(self, x):
    # SAME at stride 2 on an even image pads after the last row and column only.
    x = self.conv(torch.nn.functional.pad(x, (0, 1, 0, 1)))
    return self.dense(torch.relu(self.bn(x)).mean((2, 3)))

  def variables(self):
    state = {name: value.detach().numpy() for name, value in self.state_dict().items()}
    return {
      "params": {
        "Conv_0": {"kernel": state["conv.weight"].transpose(2, 3, 1, 0)},
        "Norm_0": {"scale": state["bn.weight"], "bias": state["bn.bias"]},
        "Dense_0": {"kernel": state["dense.weight"].T, "bias": state["dense.bias"]},
      },
      "batch_stats": {"Norm_0": {"mean": state["bn.running_mean"], "var": state["bn.running_var"]}},
    }


def test_three_rounds_of_local_bn_equal_pytorch(world):
  config = configure(
    FedAvgConfig, local(momentum=0.9, weight_decay=5e-4), local_steps=1, client_momentum="local"
  )
  fast = world.fast("bn", config, stride=2)
  server, _, metrics = fast.run(ALL, [0.3] * 3)
  batch = reference.batch_drawer(fast.data, 4, fast.transform, KEY)
  variables, buffers, losses = random_variables(fast.model), {}, 0.0
  for step in range(3):
    trained = []
    for k in range(len(SIZES)):
      net = TorchTiny(variables).train()
      optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=5e-4)
      if k in buffers:
        optimizer.load_state_dict(buffers[k])
      b = jax.tree.map(np.asarray, batch(k, step))
      real = b.mask > 0
      images = torch.tensor(b.images[real].transpose(0, 3, 1, 2))
      loss = torch.nn.functional.cross_entropy(net(images), torch.tensor(b.labels[real]).long())
      loss.backward()
      optimizer.step()
      buffers[k] = optimizer.state_dict()
      trained.append(flat(net.variables()))
      losses += loss.item() * real.sum()
    variables = reference.nested(reference.weighted_mean(trained, SIZES))
  close(server.variables, variables)
  np.testing.assert_allclose(metrics.loss, losses, rtol=1e-5)


# What ``test_contract.py`` does not run: augmented, with dropout.
MAPPINGS = {
  "vmap in chunks of 2": {"backend": "vmap", "chunk": 2},
  "shard_map of vmap": {"backend": "shard_map", "chunk": 0},
  "pmap": {"backend": "pmap"},
}
# Cohorts of three divide neither over two devices nor into chunks of two.
THREE = np.array([[2, 0, 1], [3, 1, 0], [1, 2, 3]])


def by_mapping(world, mapping=None):
  return world.fast("bn", OPTIONS["momentum local"], mapping, augment=True, dropout=0.5)


@pytest.mark.parametrize("case", MAPPINGS)
def test_mapping_changes_nothing(world, case):
  fast = by_mapping(world, client_mapping.create(num_clients=3, **MAPPINGS[case]))
  close_runs(fast.run(THREE), by_mapping(world).run(THREE))


def test_order_changes_nothing_and_chance_is_the_reference_s(world):
  fast = by_mapping(world)
  run = fast.run(THREE)
  close_runs(run, fast.run(THREE[:, ::-1]))
  close(run[0].variables["params"], slow(fast, THREE).params)


def test_augmentation_and_dropout_do_something(world):
  config = OPTIONS["momentum local"]
  plain = slow(world.fast("bn", config)).params
  for fields in ({"dropout": 0.5}, {"augment": True}):
    assert distance(slow(world.fast("bn", config, **fields)).params, plain) > 1e-3


def adagrad_by_hand(rate, tau):
  """FedAdagrad (Reddi et al. 2021, Alg. 2), with tau under the root as in optax."""

  def server(params, change, state):
    seen = {k: d**2 + (state[k] if state else 0.0) for k, d in change.items()}
    params = {k: w + rate * change[k] / np.sqrt(seen[k] + tau**2) for k, w in params.items()}
    return params, seen

  return server


def by_optax(optimizer):
  """The server that gives optax the negated mean change as a gradient."""

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
def test_server_optimizer_takes_the_negated_mean_change(world, name):
  rate, by_hand = SERVERS[name]
  options = {"server_momentum": 0.8} if name == "momentum" else {}
  config = configure(
    FedAvgConfig, FOUR, local_steps=2, server_optimizer=name, server_lr=rate, **options
  )
  fast = world.fast("gn", config)
  server, _, _ = fast.run()
  close(server.variables["params"], slow(fast, server=by_hand).params)


@pytest.mark.parametrize(
  ("name", "policy"),
  [("bn", "moments"), ("bn", "local"), ("bn", "recalibrate"), ("bgn", "moments")],
)
def test_statistics_policy(world, name, policy):
  config = configure(FedAvgConfig, FOUR, local_steps=2, batch_stats=policy)
  fast = world.fast(name, config)
  before = fast.begin()[0].variables["batch_stats"]
  server, clients, _ = fast.run()
  expected = slow(fast)
  close(server.variables["params"], expected.params)
  close(server.variables["batch_stats"], expected.stats)
  if policy == "moments":
    usual = dataclasses.replace(fast, config=dataclasses.replace(config, batch_stats="mean"))
    assert distance(slow(usual).stats, expected.stats) > 1e-4
  else:
    same_bits(server.variables["batch_stats"], before)
  if policy == "local":
    for k, client in enumerate(expected.clients):
      mine = jax.tree.map(lambda a, k=k: a[k], clients)
      close(mine.batch_stats, client.stats)
      assert distance(mine.batch_stats, before) > 1e-3
      model = fast.algorithm.views.client(server, mine)
      same_bits(model, {**server.variables, "batch_stats": mine.batch_stats})


def test_fedbn_keeps_norms_on_the_client(world):
  config = configure(
    FedAvgConfig, HEAVY, local_steps=2, client_momentum="local", batch_stats="local", fedbn=True
  )
  fast = world.fast("bn", config)
  before = fast.begin()[0].variables
  server, clients, _ = fast.run()
  expected = slow(fast)
  close(server.variables["params"], expected.params)
  same_bits(server.variables["params"]["Norm_0"], before["params"]["Norm_0"])
  same_bits(server.variables["batch_stats"], before["batch_stats"])
  assert distance(server.variables["params"]["Conv_0"], before["params"]["Conv_0"]) > 1e-3
  for k, client in enumerate(expected.clients):
    mine = jax.tree.map(lambda a, k=k: a[k], clients)
    close(mine.params, client.norm_params)
    close(mine.batch_stats, client.stats)
    model = fast.algorithm.views.client(server, mine)
    close(model["params"], {**expected.params, **client.norm_params})
    close(model["batch_stats"], client.stats)


@pytest.mark.parametrize(("name", "groups"), [("bn", 8), ("bgn", 2)])
def test_recalibration_takes_the_moments_of_all_data(world, name, groups):
  model, data, transform = world.model(name), world.data(), world.transform()
  variables = random_variables(model)
  mapping = client_mapping.create("shard_map", num_clients=len(SIZES))
  recalibrate = make_recalibrate(model, mapping, 4, transform)
  place = placer(mapping)
  # Two devices, a part in which each has a client and one in which the second has none.
  parts = [
    DataPart(place(data), place(np.int32(rows))) for rows in ([[1], [0]], [[3, 2], [-1, -1]])
  ]
  stats = recalibrate(place(variables), parts, place(KEY))
  images = transform(jnp.asarray(data.images[data.order]), None, None, None, None)
  kernel = variables["params"]["Conv_0"]["kernel"]
  inputs = jax.lax.conv_general_dilated(
    images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  inputs = np.asarray(inputs, np.float64).reshape(-1, groups, 8 // groups)
  mean, var = inputs.mean((0, 2)), inputs.var((0, 2), ddof=1)
  close(stats, {"Norm_0": {"mean": mean, "var": var}})


def test_frozen_paths_stay_bit_by_bit(world):
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


# The tiny network: a 3x3x1x8 kernel, gamma and beta of 8, an 8x4 kernel and 4 biases; statistics of
# 2 x 8.
PARAMS = 4 * (72 + 16 + 36)
STATS = 4 * 16
LEDGER = {
  "bn": ("bn", {}, PARAMS + STATS, PARAMS + STATS),
  "moments": ("bn", {"batch_stats": "moments"}, PARAMS + STATS, PARAMS + STATS),
  "bgn": ("bgn", {}, PARAMS + 16, PARAMS + 16),  # two means and two variances
  "gn": ("gn", {}, PARAMS, PARAMS),
  "none": ("none", {}, 4 * (72 + 8 + 36), 4 * (72 + 8 + 36)),
  "fixbn": ("fixbn", {}, PARAMS + STATS, PARAMS + STATS),
  "fixbn frozen": ("frozen", {}, PARAMS, PARAMS + STATS),
  "silobn": ("bn", {"batch_stats": "local"}, PARAMS, PARAMS),
  "fedbn": ("bn", {"batch_stats": "local", "fedbn": True}, PARAMS - 64, PARAMS - 64),
  "recalibrate": ("bn", {"batch_stats": "recalibrate"}, PARAMS, PARAMS),
  "recalibrate frozen": ("frozen", {"batch_stats": "recalibrate"}, PARAMS, PARAMS + STATS),
  "momentum local": ("gn", {"client_momentum": "local"}, PARAMS, PARAMS),
  "momentum global": ("gn", {"client_momentum": "global"}, 2 * PARAMS, 2 * PARAMS),
}


def ledger(world, name, mapping=SCAN, **options):
  config = configure(FedAvgConfig, HEAVY, local_steps=2, **options)
  arguments = (world.model(name), mapping, world.data(), world.transform(), SHAPE)
  return built(FEDAVG, config, *arguments).cost


@pytest.mark.parametrize("case", LEDGER)
def test_ledger_by_hand(world, case):
  name, options, up, down = LEDGER[case]
  cost = ledger(world, name, **options)
  assert cost.of_round([2, 3, 5]) == Traffic(3 * up, 3 * down, 1)


def test_ledger_of_sync_bn_charges_every_step(world):
  mapping = client_mapping.create("vmap", num_clients=3, lockstep=True)
  cost = ledger(world, "sync_bn", mapping)
  # Each way: count, 8 means and 8 m2 forwards, 2 x 8 sums backwards; two exchanges a step, and all
  # wait for the client with the most steps.
  step = 4 * (1 + 8 + 8) + 4 * 16
  model = PARAMS + STATS
  total = 3 * model + 10 * step
  assert cost.of_round([2, 3, 5]) == Traffic(total, total, 1 + 2 * 5)


@pytest.mark.parametrize(("name", "numbers"), [("bn", 17), ("bgn", 5)])
def test_ledger_of_recalibration(world, name, numbers):
  source = world.source
  ids = np.arange(60)
  partition = Partition(ids, np.array([0, 20, 40, 60]))
  task = make_task(source, partition, SPECS[name])._replace(model=world.model(name))
  config = configure(config_of(FEDAVG), FOUR, batch_stats="recalibrate", rounds=2, eval_every=1)
  program = make_program(FEDAVG, task, config)
  (phase,) = program.phases.values()
  # A pass over all three clients: the model down, count, mean and m2 of 8 channels or 2 groups up.
  assert phase.refresh_cost.of_round([0, 0, 0]) == Traffic(3 * 4 * numbers, 3 * PARAMS, 1)
  # In time, a pass over five batches of four is a third of five training steps.
  np.testing.assert_allclose(phase.refresh_steps, [5 / 3] * 3)


@pytest.mark.parametrize("backend", ["scan", "shard_map"])
def test_intervals_neither_recompile_nor_touch_the_host(world, backend):
  mapping = client_mapping.create(backend, num_clients=2)
  fast = world.fast("bn", OPTIONS["momentum local"], mapping)
  compiled = fast.interval._cache_size()  # by other tests
  states = tuple(map(placer(mapping), fast.begin()))
  calls = [
    fast.arguments(SOME, RATES, 0),
    fast.arguments(SOME[::-1], [0.01] * 3, 3, 1, 3),
    fast.arguments([[0, 1]] * 3, [0.5] * 3, 5, 0, 1),
  ]
  for arguments in calls:
    with jax.transfer_guard("disallow"):
      *states, _ = fast.interval(*states, *arguments)
  # A cohort of two is one more program than those of other tests, however often it runs.
  assert fast.interval._cache_size() <= compiled + 1
  # The guard would have seen a number that comes from the host.
  with jax.transfer_guard("disallow"), pytest.raises(Exception, match="isallowed"):
    fast.interval(*states, *calls[0][:5], 0, *calls[0][6:])


def test_an_interval_runs_any_rounds_of_its_window(world):
  fast = world.fast("bn", OPTIONS["momentum local"])
  whole = fast.run()
  # The window of rounds 0 to 2 as far as round 1, then one of the rounds 1 to 3 from its second on.
  states = tuple(map(placer(SCAN), fast.begin()))
  *states, metrics = fast.interval(*states, *fast.arguments(SOME, RATES, 0, 0, 2))
  _, *later = fast.arguments([SOME[1], SOME[2], SOME[0]], [9.0, RATES[2], 9.0], 1, 1, 2)
  same_bits(jax.tree.map(np.asarray, fast.interval(*states, metrics, *later)), whole)


@pytest.mark.parametrize(
  ("name", "options", "words"),
  [
    ("gn", {"batch_stats": "moments"}, "keeps no running statistics"),
    ("fixbn", {"batch_stats": "local"}, "freezes the global statistics"),
    ("fixbn", {"batch_stats": "local", "fedbn": True}, "freezes the global statistics"),
    ("sync_bn", {}, "lock-step"),
    ("bn", {"fedbn": True, "batch_stats": "mean"}, "fedbn keeps"),
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
def test_what_does_not_fit_together_is_refused(world, name, options, words):
  def build():
    config = configure(FedAvgConfig, HEAVY, **{"local_steps": 2, **options})
    return built(FEDAVG, config, world.model(name), SCAN, world.data(), world.transform(), SHAPE)

  with pytest.raises(UserError, match=words):
    build()
