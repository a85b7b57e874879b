"""Distillation: the loss against PyTorch, an epoch against a plain mean, and resuming."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import linen as nn

from fedjax_norm.algorithms.costs.ledger import Traffic
from fedjax_norm.errors import DivergedError, UserError
from fedjax_norm.local_training import optimizer
from fedjax_norm.models.layers import Dense
from fedjax_norm.norm import Mode, Norm, NormSpec, create
from fedjax_norm.training.distillation import (
  DistilConfig,
  PublicData,
  Student,
  distil,
  distillation_loss,
  make_epoch,
)
from fedjax_norm.training.storage.run_folder import RunFolder
from fedjax_norm.training.task.task import Task

RNG = np.random.default_rng(0)
PLAIN = {"batch_size": 8, "momentum": 0.0, "weight_decay": 0.0}


class Linear(nn.Module):
  """A norm and a dense layer."""

  norm: NormSpec
  num_classes: int = 4

  @nn.compact
  def __call__(self, x, mode):
    x = Norm(self.norm)(x.reshape(len(x), -1), mode)
    return Dense(self.num_classes, self.norm)(x, mode)


def task_of(source, norm="none"):
  def plain(images, ids=None, strength=None):
    return images

  return Task(Linear(create(norm)), source, None, None, None, plain)


def public_of(source):
  teacher_logits = RNG.normal(0, 2, (len(source.train.labels), 4)).astype(np.float32)
  return PublicData(source.train.images, teacher_logits, source.train.labels)


@pytest.mark.parametrize(("temperature", "hard"), [(1.0, 0.0), (3.0, 0.4), (2.0, 1.0)])
def test_the_loss_equals_pytorch(temperature, hard):
  logits, teacher_logits = RNG.normal(0, 3, (2, 6, 5)).astype(np.float32)
  labels = RNG.integers(0, 5, 6)
  torch_logits = torch.tensor(logits, requires_grad=True)
  soft = F.kl_div(
    F.log_softmax(torch_logits / temperature, -1),
    F.softmax(torch.tensor(teacher_logits) / temperature, -1),
    reduction="none",
  ).sum(-1)
  cross_entropy = F.cross_entropy(torch_logits, torch.tensor(labels), reduction="none")
  expected = (1 - hard) * temperature**2 * soft + hard * cross_entropy
  expected.sum().backward()
  rest = (jnp.asarray(teacher_logits), jnp.asarray(labels), temperature, hard)
  value, gradient = jax.value_and_grad(lambda s: distillation_loss(s, *rest).sum())(logits)
  np.testing.assert_allclose(value, expected.sum().item(), rtol=1e-5)
  np.testing.assert_allclose(gradient, torch_logits.grad, rtol=1e-4, atol=1e-6)
  equal_logits = distillation_loss(jnp.asarray(teacher_logits), *rest[:3], 0.0)
  np.testing.assert_allclose(equal_logits, np.zeros(6), atol=1e-5)


def test_an_epoch_takes_every_example_once(make_source):
  """At a rate of almost 0, an epoch over 5 examples in batches of 2 gives their mean loss."""
  source = make_source(num_train=5)
  task, public = task_of(source), public_of(source)
  config = DistilConfig(**{**PLAIN, "batch_size": 2}, lr=1e-12, temperature=2.0, hard=0.3)
  variables = task.model.init(jax.random.key(0), source.train.images, Mode())
  student = Student(variables, optimizer(config).init(variables["params"]))
  logits = task.model.apply(variables, source.train.images, Mode())
  expected = distillation_loss(logits, *public[1:], 2.0, 0.3).mean()
  public = PublicData(*map(jnp.asarray, public))
  _, loss = make_epoch(task, config)(student, public, jnp.int32(0), jax.random.key(1))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_the_student_learns_from_the_teacher_and_resumes_bit_for_bit(make_source, tmp_path):
  source = make_source(num_train=24, num_test=8)
  wrong = 8 * np.eye(4, dtype=np.float32)[(source.train.labels + 1) % 4]
  task, public = task_of(source, "bn"), public_of(source)._replace(teacher_logits=wrong)
  config = DistilConfig(**PLAIN, lr=0.05, epochs=8, eval_every=4)
  traffic = Traffic(7, 5, 0)

  def run(folder, **changes):
    settings = dataclasses.replace(config, **changes)
    with RunFolder.open(folder, {}) as opened:
      return distil(task, public, settings, traffic, opened)

  whole, rows = run(tmp_path / "whole")
  run(tmp_path / "cut", epochs=4)
  resumed, again = run(tmp_path / "cut")
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  assert [row["round"] for row in rows] == [row["round"] for row in again] == [4, 8]
  assert rows[-1]["loss"] == again[-1]["loss"]
  assert rows[-1]["train_loss"] < rows[0]["train_loss"]
  assert (rows[-1]["bytes_up"], rows[-1]["bytes_down"]) == (7, 5)
  # The teacher labels every image with the next class, and so does the student.
  predicted = task.model.apply(whole, source.test.images, Mode()).argmax(-1)
  np.testing.assert_array_equal(predicted, (source.test.labels + 1) % 4)
  assert rows[-1]["top1"] == 0.0


def test_invalid_options_and_diverged_training_are_refused(make_source, tmp_path):
  for options, match in (
    ({"epochs": 0}, "epochs is 0"),
    ({"temperature": 0.0}, "temperature is 0"),
    ({"hard": 1.5}, "hard is 1.5"),
  ):
    with pytest.raises(UserError, match=match):
      DistilConfig(**options)
  source = make_source(num_train=8, num_test=4)
  public = public_of(source)._replace(teacher_logits=np.full((8, 4), np.nan, np.float32))
  config = DistilConfig(**PLAIN, epochs=1)
  with (
    RunFolder.open(tmp_path / "run", {}) as folder,
    pytest.raises(DivergedError, match="epochs 0"),
  ):
    distil(task_of(source), public, config, Traffic(), folder)
