"""The members of an ensemble train as each would separately, and vote."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.settings import plain
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_norm import models, tree_leaves
from fedjax_norm.errors import UserError
from fedjax_norm.models.ensemble import LOGITS, Ensemble, Member
from fedjax_norm.models.flops import step_flops
from fedjax_norm.models.layers import Dense
from fedjax_norm.models.stages import Staged, describe, stage_names
from fedjax_norm.norm import Mode, Norm, NormSpec, create
from fedjax_norm.objectives import majority
from fedjax_norm.split.ensemble_members import MemberSpec, make_ensemble
from fedjax_norm.split.messages import ACTIVATION, GRADIENT, LABELS
from fedjax_norm.split.parties import loss_gradient, make_parties
from fedjax_norm.split.plan import divide, join, make_plan, segment_shapes
from fedjax_norm.split.step import step
from fedjax_norm.typing import Batch

SHAPE, CLASSES = (8, 8, 1), 3
IMAGE = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
LOCAL = {"batch_size": 4, "momentum": 0.9, "weight_decay": 1e-3}


class Small(Staged):
  """Two dense layers with norms and a head, quick to compile."""

  norm: NormSpec

  def stages(self):
    def unit(index):
      def run(x, mode):
        x = Dense(4, self.norm, name=f"Dense_{index}")(x.reshape(len(x), -1), mode)
        return jnp.tanh(Norm(self.norm, name=f"Norm_{index}")(x, mode))

      return f"unit{index}", run

    def head(x, mode):
      return Dense(CLASSES, self.norm, name="head")(x, mode)

    return unit(0), unit(1), ("head", head)


def member(cut=None, tail=None):
  return MemberSpec("tiny", create("bn"), cut, tail)


def train(model, plan, variables, objective, batches):
  """Returns (variables after some steps, messages, metrics of the last step)."""
  local = plain(**LOCAL, objective=objective)
  shapes, _ = segment_shapes(model, plan, IMAGE)
  parties = make_parties(model, plan, local, shapes)
  sent = []

  def send(kind, sender, receiver, tensors, count):
    sent.append((kind, jax.tree.map(lambda a: (a.shape, a.dtype), tensors)))
    return tensors

  def run(parts, batch):
    return step(
      plan,
      parties,
      lambda outputs, batch: loss_gradient(local, outputs, batch),
      None,
      send,
      parts,
      batch,
      jnp.float32(0),
      jax.random.key(0),
      jnp.float32(0.05),
    )

  parts = tuple(p.init(v) for p, v in zip(parties, divide(variables, shapes), strict=True))
  run = jax.jit(run)
  for batch in batches:
    result = run(parts, batch)
    parts = result.parts
  return join([part.variables for part in parts]), sent, result.metrics


@pytest.mark.parametrize(("norms", "tails"), [("gn", False), ("bn", True)])
def test_members_train_and_vote_as_they_would_separately(norms, tails):
  """With different groups and cuts, momentum, decay and a last batch of three examples."""
  if norms == "gn":
    specs = [create("gn", groups=2), create("gn", group_size=4)]
  else:
    specs = [create("bn")] * 2
  cuts = [("unit0", "unit1")] * 2 if tails else [("unit0", None), ("unit1", None)]
  models_alone = [Small(spec) for spec in specs]
  plans = [
    make_plan(model, SHAPE, cut, tail)
    for model, (cut, tail) in zip(models_alone, cuts, strict=True)
  ]
  whole = Ensemble(
    specs[0],
    tuple(
      Member(model.clone, model.norm, tuple(segment[1:] for segment in plan.segments))
      for model, plan in zip(models_alone, plans, strict=True)
    ),
  )
  variables = models.init(whole, jax.random.key(1), SHAPE)
  assert variables.keys() == {"params", *(["batch_stats"] if norms == "bn" else [])}
  rng = np.random.default_rng(0)
  batches = [
    Batch(
      rng.standard_normal((4, *SHAPE)).astype(np.float32),
      rng.integers(0, CLASSES, 4).astype(np.int32),
      np.array([1, 1, 1, last], np.float32),
    )
    for last in (1, 0)
  ]
  tail = "server" if tails else None
  plan = make_plan(whole, SHAPE, tail=tail)
  together, sent, metrics = train(whole, plan, variables, "ensemble", batches)
  images = batches[0].images
  vote, collections = whole.apply(together, images, Mode(), mutable=[LOGITS])
  np.testing.assert_array_equal(vote, majority(collections[LOGITS]["each"][0]))
  losses, crossing = [], []
  for index, (model, member_plan) in enumerate(zip(models_alone, plans, strict=True)):
    before = {kind: tree[f"member{index}"] for kind, tree in variables.items()}
    alone_after, alone_sent, alone_metrics = train(
      model, member_plan, before, "classification", batches
    )
    after = {kind: tree[f"member{index}"] for kind, tree in together.items()}
    flat, expected = tree_leaves.flatten(after), tree_leaves.flatten(alone_after)
    assert flat.keys() == expected.keys()
    for path, value in flat.items():
      np.testing.assert_allclose(value, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)
      assert not np.array_equal(value, tree_leaves.flatten(before)[path]), path
    logits = collections[LOGITS]["each"][0][:, index]
    np.testing.assert_allclose(logits, model.apply(alone_after, images, Mode()), atol=1e-5)
    losses.append(alone_metrics.loss)
    crossing.append(alone_sent)
  np.testing.assert_allclose(metrics.loss, sum(losses), rtol=1e-5)
  # The messages hold the tensors of all members, and the labels once.
  assert [kind for kind, _ in sent] == [kind for kind, _ in crossing[0]]
  assert (LABELS in [kind for kind, _ in sent]) is not tails
  for (kind, tensors), *each in zip(sent, *crossing, strict=True):
    if kind in (ACTIVATION, GRADIENT):
      assert tensors == tuple(one for _, one in each)


@settings(max_examples=20)
@given(st.sampled_from([(2, 3), (5, 2)]), st.floats(0.1, 30), st.integers(0, 10**6))
def test_most_votes_win_and_the_mean_probability_breaks_ties(shape, scale, seed):
  logits = np.random.default_rng(seed).normal(0, scale, (6, *shape)).astype(np.float32)
  out = np.asarray(jax.jit(majority)(logits))
  np.testing.assert_allclose(np.exp(out).sum(-1), 1, rtol=1e-5)
  exponentials = np.exp(logits - logits.max(-1, keepdims=True))
  shares = exponentials / exponentials.sum(-1, keepdims=True)
  for row, each, p in zip(out, logits, shares.mean(1), strict=True):
    votes = np.bincount(each.argmax(-1), minlength=shape[1])
    tied = np.flatnonzero(votes == votes.max())
    assert row.argmax() in tied
    assert p[row.argmax()] > p[tied].max() - 1e-5  # float32 resolution next to a vote


def test_a_class_without_votes_has_a_finite_logit():
  logits = jnp.array([[[0.0, -400.0, -300.0], [0.0, -400.0, -300.0]]])
  out = majority(logits)
  assert bool(jnp.isfinite(out).all())
  np.testing.assert_allclose(out[0, 1], -400 - np.log(3), rtol=1e-5)
  labels = jnp.array([1])
  loss = optax.softmax_cross_entropy_with_integer_labels(out, labels)
  np.testing.assert_allclose(loss, 400 + np.log(3), rtol=1e-5)


def test_parameters_and_flops_are_sums_over_the_members():
  spec = create("gn", groups=8)
  members = [MemberSpec("tiny", spec, "conv1"), MemberSpec("tiny", spec, "conv2")]
  whole = make_ensemble(members, CLASSES, SHAPE)
  model = models.create("tiny", spec, CLASSES, SHAPE)
  assert stage_names(whole) == ("client", "server")
  client, server = describe(whole, SHAPE)
  single = describe(model, SHAPE)
  assert client.shape == (single[0].shape, single[1].shape)
  assert client.parameters == 2 * single[0].parameters + single[1].parameters
  assert client.macs == 2 * single[0].macs + single[1].macs
  assert client.macs + server.macs == 2 * sum(info.macs for info in single)
  both = step_flops(whole, SHAPE, 0, 1, 2, input_gradient=False).training
  separate = [step_flops(model, SHAPE, 0, end, 2, input_gradient=False).training for end in (1, 2)]
  np.testing.assert_allclose(both, sum(separate), rtol=1e-6)


@pytest.mark.parametrize(
  ("members", "match"),
  [
    ([member()], "a vote needs two"),
    ([member("conv1", "conv2"), member("conv1")], "to all or to none"),
    ([member("head"), member("conv1")], "is the last"),
    ([member("pool"), member("conv1")], "unknown stage 'pool'"),
  ],
)
def test_invalid_members_are_refused(members, match):
  with pytest.raises(UserError, match=match):
    make_ensemble(members, CLASSES, SHAPE)
