"""User-defined algorithms and optimizers: the example of the contract's page."""

import dataclasses
import doctest
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest

import fedjax_norm as fn
from fedjax_norm.algorithms import contract
from fedjax_norm.algorithms.averaging_config import AveragingConfig
from fedjax_norm.algorithms.fedavg import FEDAVG
from fedjax_norm.algorithms.registry import METHODS
from fedjax_norm.options import make as configure
from fedjax_norm.options import option
from fedjax_norm.training.config.train import config_of

FEW = {"rounds": 2, "eval_every": 2, "batch_size": 4, "local_steps": 2, "backend": "scan"}


@pytest.fixture(scope="module")
def task(tiny_source, tiny_net):
  owners = np.arange(len(tiny_source.train.labels)) % 3
  task = fn.make_task(tiny_source, owners, fn.make_norm("bn"))
  return task._replace(model=tiny_net(norm=fn.make_norm("bn")))


@pytest.fixture(scope="module")
def toy():
  """Returns the example of the contract's docstring."""
  (test,) = (one for one in doctest.DocTestFinder().find(contract) if one.examples)
  doctest.DocTestRunner().run(test, clear_globs=False)
  return test.globs["TOY"]


def params(outcome):
  return outcome.variables["params"]


def close(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_the_example_of_the_page_runs(task, toy):
  """It equals FedAvg with ``server_lr`` and has the same cost."""
  mine = fn.run(toy, task, toy_lr=0.5, **FEW)
  theirs = fn.run("fedavg", task, server_lr=0.5, **FEW)
  close(params(mine), params(theirs))
  for name in ("bytes_up", "bytes_down", "round_trips"):
    assert mine.rows[-1][name] == theirs.rows[-1][name]
  with pytest.raises(fn.UserError, match="--toy_lr is 0; it must be above 0"):
    fn.run(toy, task, toy_lr=0.0, **FEW)
  with pytest.raises(fn.UserError, match="there is no option 'server_lr' here"):
    fn.run(toy, task, server_lr=0.5, **FEW)


@dataclasses.dataclass(frozen=True)
class Clash(AveragingConfig):
  """Options with a name that every run has."""

  rounds: int = option(3, "Something else.")


class Renamed(AveragingConfig):
  """A configuration written for version 0.3."""

  def policy(self, spec):
    return "local"


def broken(method=FEDAVG, **changes):
  """Returns a method with other parts."""

  def build(config, setup):
    return method.build(config, setup)._replace(**changes)

  return dataclasses.replace(method, build=build)


class TwoModels(NamedTuple):
  """The global model, and a second one that starts as the same arrays."""

  variables: dict
  average: dict


def test_a_server_state_may_start_with_one_array_twice(task):
  """The compiled programs donate the state, and a donated array can be used once only."""
  twice = broken(
    METHODS["fednova"],
    init=lambda variables: TwoModels(variables, variables["params"]),
    server=lambda server, mean, context: server,
  )
  outcome = fn.run(twice, task, **FEW)
  assert outcome.rows[-1]["round"] == FEW["rounds"]


def test_an_unknown_pace_is_refused(task):
  options = {name: value for name, value in FEW.items() if name != "local_steps"}
  with pytest.raises(fn.UserError, match="has the pace 'turns'; choose one of lockstep"):
    fn.run(broken(METHODS["gaia"], pace="turns"), task, **options)


@pytest.mark.parametrize(
  ("method", "words"),
  [
    (dataclasses.replace(FEDAVG, config=Clash), "Clash.rounds of method 'fedavg' has the name of"),
    (dataclasses.replace(FEDAVG, config=Renamed), "Renamed.policy of .* is now statistics_policy"),
    (broken(init=lambda variables: {"variables": variables}), "must be a NamedTuple with a field"),
    (broken(server=lambda server, mean, context: mean), "must be a NamedTuple with a field"),
    (broken(equal=("chnge",)), "an upload must be a dict with the keys chnge"),
  ],
)
def test_mistakes_of_a_user_defined_algorithm_are_refused(task, method, words):
  with pytest.raises(fn.UserError, match=words):
    fn.run(method, task, **FEW)


def test_user_defined_optimizers_of_client_and_server(task):
  """Optax transformations have the same result as equivalent options."""
  like = {**FEW, "momentum": 0.0, "weight_decay": 0.0}
  usual = fn.run(FEDAVG, task, server_optimizer="adam", server_lr=0.01, clip_norm=0.5, **like)
  own = fn.FedAvgConfig(
    momentum=0.0,
    weight_decay=0.0,
    optimizer=optax.clip_by_global_norm(0.5),
    own_server_optimizer=optax.adam(0.01, b1=0.9, b2=0.99, eps=1e-3),
  )
  close(params(fn.run(FEDAVG, task, own, **FEW)), params(usual))


def test_a_group_sets_only_options_that_differ_from_its_defaults(task):
  """Otherwise it would overwrite the defaults of the method."""

  def make(method, *groups, **options):
    return configure(config_of(METHODS[method]), *groups, **options)

  assert make("bsp", fn.SsgdConfig(batch_size=16)).reduction == "sum"
  assert make("splitfed_v1", fn.SplitConfig(cut="a")).variant == "splitfed_v1"
  assert make("asgd", fn.LocalConfig(batch_size=16)).momentum == 0
  assert make("ssgd", fn.LoopConfig(seed=3), epochs=2).seed == 3
  assert make("fedavg", fn.LocalConfig(momentum=0.5)).momentum == 0.5


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"optimizer": optax.adam(1e-3), "clip_norm": 1.0}, "--clip_norm does nothing with optim"),
    ({"own_server_optimizer": optax.sgd(1.0), "server_lr": 0.5}, "--server_lr does nothing with"),
    (
      {"optimizer": optax.adam(1e-3), "client_momentum": "global"},
      "can average the momentum of SGD",
    ),
    ({"optimizer": optax.adam(1e-3)}, "optimizer lowers the loss by itself"),
    ({"optimizer": optax.MultiSteps(optax.adam(1e-3), 4)}, "optimizer lowers the loss by itself"),
    ({"optimizer": optax.polyak_sgd()}, "optimizer needs more than gradients and parameters"),
    ({"own_server_optimizer": optax.scale_by_adam()}, "own_server_optimizer has no negative"),
    ({"frozen_paths": frozenset(["Conv_0/kernal"])}, "no parameter 'Conv_0/kernal' to freeze"),
    ({"lr": float("inf")}, "--lr is inf; it must be finite"),
    ({"rounds": None}, "--rounds is None; it must be a whole number"),
    ({"learning_rate": 0.1}, "there is no option 'learning_rate' here; choose from"),
  ],
)
def test_invalid_options_are_refused(task, options, words):
  with pytest.raises(fn.UserError, match=words):
    fn.run("fedavg", task, **{**FEW, **options})


def test_invalid_arguments_are_refused(task):
  with pytest.raises(fn.UserError, match="unknown method 'sgd'; choose one of fedavg, scaffold"):
    fn.run("sgd", task)
  with pytest.raises(fn.UserError, match="float is no group of options"):
    fn.run("fedavg", task, 0.1)
  with pytest.raises(fn.UserError, match="SsgdConfig is no group of options"):
    fn.run("fedavg", task, fn.SsgdConfig())
  with pytest.raises(fn.UserError, match="the argument task must be an object of type Task"):
    fn.run("fedavg", None)
