"""User-defined flax modules as models, and the errors for arguments that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers.user_parts import CLIENTS, Plain, run

import fedjax_norm as fn
from fedjax_norm.models.flops import layer_macs, training_flops
from fedjax_norm.norm import Norm

BN = fn.make_norm("bn")


class Deterministic(Plain):
  """The same module with the argument ``deterministic``."""

  @nn.compact
  def __call__(self, x, *, deterministic: bool):
    x = nn.LayerNorm()(nn.Dense(16)(x.reshape(len(x), -1)))
    x = nn.Dropout(0.5, deterministic=deterministic)(nn.relu(x))
    return nn.Dense(self.classes)(x)


class WithMode(nn.Module):
  """A module with a norm and a mode, like the models of the library."""

  norm: fn.NormSpec

  @nn.compact
  def __call__(self, x, mode: fn.Mode):
    return nn.Dense(4)(Norm(self.norm)(nn.Conv(4, (3, 3))(x), mode).mean((1, 2)))


class Statistics(nn.Module):
  """A module with batch statistics outside of fedjax_norm."""

  @nn.compact
  def __call__(self, x, train: bool):
    return nn.Dense(4)(nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1)))


class Needy(nn.Module):
  """A module with an argument that the library does not pass."""

  @nn.compact
  def __call__(self, x, temperature):
    return nn.Dense(4)(x.reshape(len(x), -1)) / temperature


@pytest.fixture(scope="module")
def task(tiny_source):
  return fn.make_task(tiny_source, CLIENTS, model=Plain())


def outputs(task, train, key=0):
  """Returns the model's outputs for some images, and its variables."""
  images = jnp.ones((2, *task.image_shape))
  variables = task.model.init(jax.random.key(0), images, fn.Mode())
  rngs = {"dropout": jax.random.key(key)}
  return task.model.apply(variables, images, fn.Mode(train=train), rngs=rngs), variables


@pytest.mark.parametrize("module", [Plain(), Deterministic()], ids=["train", "deterministic"])
def test_a_plain_module_has_dropout_only_in_training(tiny_source, module):
  task = fn.make_task(tiny_source, CLIENTS, model=module)
  evaluated, variables = outputs(task, False)
  np.testing.assert_array_equal(evaluated, outputs(task, False, 1)[0])
  assert (outputs(task, True)[0] != outputs(task, True, 1)[0]).any()
  images = jnp.ones((2, *task.image_shape))
  off = {"deterministic": True} if isinstance(module, Deterministic) else {}
  np.testing.assert_array_equal(evaluated, module.apply(variables, images, **off))


def test_a_plain_module_learns_and_its_variables_fit_the_module(task):
  outcome = run(task, fn.LoopConfig(20, 20), local_steps=10)
  assert outcome.rows[-1]["top1"] > 0.9
  images = task.eval_transform(task.source.test.images)
  guesses = Plain().apply(outcome.variables, images).argmax(-1)
  assert np.mean(guesses == task.source.test.labels) == pytest.approx(outcome.rows[-1]["top1"])


def test_a_plain_module_has_a_simulated_clock(task):
  assert layer_macs(task.model, (6, 6, 1)) == {"Dense_0": 36 * 16, "Dense_1": 16 * 4}
  assert training_flops(task.model, (6, 6, 1)) == 2 * (2 * 36 * 16 + 3 * 16 * 4)
  assert layer_macs(WithMode(fn.make_norm("bn")), (6, 6, 1)) == {"Conv_0": 36 * 36, "Dense_0": 16}
  with pytest.raises(fn.UserError, match="no dense or convolution layer"):
    training_flops(nn.Sequential([lambda x, mode: x.mean((1, 2))]), (6, 6, 1))


def test_diagnostics_need_a_norm_of_the_library(task):
  with pytest.raises(fn.UserError, match="the model has none; drop the flag"):
    run(task, diagnostics=True)


def test_modules_with_a_norm_are_not_wrapped(tiny_source):
  module = WithMode(fn.make_norm("bn"))
  assert fn.make_task(tiny_source, CLIENTS, model=module).model is module
  assert fn.make_task(tiny_source, CLIENTS, module.norm, module).model is module


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"model": Statistics()}, "Statistics keeps variables in 'batch_stats'.*nn.GroupNorm"),
    ({"model": Plain(3)}, "Plain has 3 outputs per image and the task needs 4"),
    ({"model": Plain(), "norm": BN}, "Plain does not take a norm, so 'bn' would have no effect"),
    ({"model": WithMode(BN), "norm": fn.make_norm("ln")}, "WithMode has norm 'bn' already"),
    ({"model": Needy()}, "Needy.__call__ requires the parameter 'temperature'"),
    ({"model": Plain(), "stem": "cifar"}, "no stem to choose"),
    ({"model": Plain(), "verification": True}, "no embedding"),
    ({"model": Plain}, "model must be an object of type str or Module, not the class Plain"),
    ({"model": "tiny"}, "model 'tiny' needs a norm"),
    ({"norm": "bn"}, "norm must be an object of type NormSpec, not a str"),
    ({"norm": BN, "preprocess": True}, "preprocess must be an object of type Preprocess"),
    ({"norm": BN, "order": "label"}, "order must be an object of type ExampleOrder"),
    (
      {"norm": BN, "objective": optax.l2_loss},
      "objective must be an object of type str or Objective, not a function",
    ),
  ],
)
def test_errors_are_one_sentence(tiny_source, options, words):
  with pytest.raises(fn.UserError, match=words) as error:
    fn.make_task(tiny_source, CLIENTS, **options)
  assert "\n" not in str(error.value)
