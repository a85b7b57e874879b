"""Runs share compiled functions only where they would be the same."""

import pytest

from fedjax_norm.cli import train
from fedjax_norm.cli.methods import ANY_METHOD
from fedjax_norm.options import make
from fedjax_norm.training.reuse import Programs

BASE = {"data": "synthetic:classes=3,train=60,test=9,size=6", "clients": 3, "norm": "brn"}
BASE |= {"rounds": 8, "eval_every": 2, "validation_share": 0.2}


@pytest.fixture(scope="module")
def source():
  return train.load(make(ANY_METHOD.config("fedavg"), **BASE))


def shares(source, method="fedavg", one=(), **other):
  """Whether the runs with the options ``one`` and ``one | other`` share their intervals."""
  programs, built = Programs(train.make), []
  for more in (dict(one), dict(one) | other):
    config = make(ANY_METHOD.config(method), **BASE | more)
    config, task = train.prepare(config, source)
    built.append((programs.of(task, config), config))
  (first, _), (second, config) = built
  assert second.rates.tolist() == config.rates(config.rounds).tolist()
  shared = second.intervals is first.intervals
  assert (second.phases["explore"].algorithm is first.phases["explore"].algorithm) == shared
  assert (second.evaluate.test is first.evaluate.test) == shared
  return shared


@pytest.mark.parametrize(
  ("one", "other"),
  [
    ({}, {"lr": 0.5}),
    ({}, {"seed": 3}),
    ({}, {"lr_schedule": "cosine"}),
    ({"norm": "fixbn"}, {"rounds": 4}),  # freezes earlier
    ({"network": "lan", "batch_stats": "recalibrate", "norm": "bn"}, {"seed": 1}),
  ],
)
def test_what_is_data_is_shared(source, one, other):
  assert shares(source, one=one, **other)


@pytest.mark.parametrize(
  ("one", "other"),
  [
    ({}, {"rounds": 4}),  # the limits of batch renormalization are fractions of the run
    ({}, {"momentum": 0.5}),
    ({}, {"norm_epsilon": 0.1}),
    ({}, {"clients": 4}),
    ({"fine_tune_steps": 1}, {"lr": 0.5}),
    ({"unseen_clients": 1}, {"seed": 1}),  # other images are scaled by other statistics
  ],
)
def test_what_is_compiled_is_not_shared(source, one, other):
  assert not shares(source, one=one, **other)


def test_a_method_that_depends_on_the_seed_shares_only_rates(source):
  one = {"batch_split": "proportional"}  # each client's batch has the size of its data
  assert shares(source, "ssgd", one, lr=0.5)
  assert not shares(source, "ssgd", one, seed=1)
  assert shares(source, "ssgd", seed=1)


def test_the_freeze_of_a_shorter_run_is_its_own(source):
  programs = Programs(train.make)
  for rounds in (8, 4):
    config = make(ANY_METHOD.config("fedavg"), **BASE | {"norm": "fixbn", "rounds": rounds})
    config, task = train.prepare(config, source)
    assert programs.of(task, config).freeze.round == rounds // 2


def test_an_ordinary_run_prepares_its_data_and_its_program_once(tmp_path, monkeypatch):
  counts = {"prepare": 0, "make": 0}

  def counted(name):
    function = getattr(train, name)

    def call(*arguments):
      counts[name] += 1
      return function(*arguments)

    return call

  monkeypatch.setattr(train, "prepare", counted("prepare"))
  monkeypatch.setattr(train, "run_seed", lambda *_: None)
  config = make(ANY_METHOD.config("fedavg"), **BASE, workdir=str(tmp_path / "run"))
  train.run(config, counted("make"))
  assert counts == {"prepare": 1, "make": 1}
