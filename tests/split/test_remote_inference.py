"""Inference with a cut model equals that of the whole model, and no image crosses."""

import jax
import numpy as np
import pytest
from helpers.split_world import IMAGE, SHAPE, net

from fedjax_norm import models, tree_leaves
from fedjax_norm.norm import Mode
from fedjax_norm.split.by_messages.inference import CutModel, remote_outputs, send_client_weights
from fedjax_norm.split.by_messages.log import MessageLog
from fedjax_norm.split.messages import ACTIVATION, HAND_OVER, OUTPUT
from fedjax_norm.split.plan import ALICE, BOB, divide, make_plan, segment_shapes

IMAGES = np.random.default_rng(0).random((5, *SHAPE), np.float32)
CUTS = {
  "plain": {"cut": "conv"},
  "u_shape": {"cut": "conv", "tail": "body"},
  "relays": {"cut": "conv", "relays": ("mix", "body")},
}


def half(images, ids=None, strength=None):
  return images / 2


def cut(model, plan, variables):
  return CutModel(model, plan, divide(variables, segment_shapes(model, plan, IMAGE)[0]), half)


@pytest.fixture(scope="module")
def trained():
  """(model, variables) with BN and running statistics other than the initial ones."""
  model = net("bn")
  variables = models.init(model, jax.random.key(0), SHAPE)
  return model, jax.tree.map(lambda a: a + 0.1, variables)


@pytest.mark.parametrize("name", CUTS)
def test_outputs_equal_those_of_the_whole_model(name, trained):
  model, variables = trained
  plan = make_plan(model, SHAPE, **CUTS[name])
  cut_model, messages = cut(model, plan, variables), []
  expected = model.apply(variables, IMAGES / 2, Mode())
  got = remote_outputs(cut_model, IMAGES, 3, messages.append, "third")
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
  links = [(m.sender, m.receiver, m.kind, m.reader) for m in messages[: len(messages) // 2]]
  assert (
    links
    == {
      "plain": [("third", BOB, ACTIVATION, None), (BOB, "third", OUTPUT, None)],
      "u_shape": [("third", BOB, ACTIVATION, None), (BOB, "third", ACTIVATION, None)],
      "relays": [
        ("third", "eve0", ACTIVATION, None),
        ("eve0", "eve1", ACTIVATION, None),
        ("eve1", BOB, ACTIVATION, None),
        (BOB, "eve1", OUTPUT, "third"),
        ("eve1", "eve0", OUTPUT, "third"),
        ("eve0", "third", OUTPUT, None),
      ],
    }[name]
  )
  assert [len(jax.tree.leaves(m.tensors)[0]) for m in messages] == (
    [3] * (len(messages) // 2) + [2] * (len(messages) // 2)
  )
  for message in messages:
    assert all(leaf.shape[1:] != SHAPE for leaf in jax.tree.leaves(message.tensors))


@pytest.mark.parametrize(("name", "sent"), [("plain", 0), ("u_shape", 1)])
def test_the_server_can_read_the_outputs(name, sent, trained):
  """The server computes them, except in the U-shape, where the client sends them."""
  model, variables = trained
  plan = make_plan(model, SHAPE, **CUTS[name])
  cut_model, messages = cut(model, plan, variables), []
  got = remote_outputs(cut_model, IMAGES, 5, messages.append, reader=BOB)
  np.testing.assert_allclose(got, model.apply(variables, IMAGES / 2, Mode()), rtol=1e-5, atol=1e-6)
  outputs = [m for m in messages if m.kind == OUTPUT]
  assert [(m.sender, m.receiver) for m in outputs] == [(ALICE, BOB)] * sent
  for message in outputs:
    np.testing.assert_allclose(message.tensors, got, rtol=1e-6)


@pytest.mark.parametrize(
  ("mode", "path"), [("centralised", [ALICE, BOB, "third"]), ("peer", [ALICE, "third"])]
)
def test_a_third_party_receives_only_the_client_weights(mode, path, trained):
  model, variables = trained
  plan = make_plan(model, SHAPE, **CUTS["u_shape"])
  log, messages = MessageLog(), []
  cut_model = cut(model, plan, variables)
  send_client_weights(
    cut_model, "third", mode, lambda message: (messages.append(message), log.observe(message))
  )
  assert [m.sender for m in messages] == path[:-1]
  assert [m.receiver for m in messages] == path[1:]
  assert {m.kind for m in messages} == {HAND_OVER}
  expected = {f"params/{name}" for name in ("Conv_0/kernel", "Norm_0/scale", "Norm_0/bias")}
  expected |= {"batch_stats/Norm_0/mean", "batch_stats/Norm_0/var"}
  expected |= {"params/Dense_1/kernel", "params/Dense_1/bias"}
  paths = {path for part in messages[-1].tensors for path in tree_leaves.flatten(part)}
  assert paths == expected
  size = sum(tree_leaves.flatten(variables)[path].nbytes for path in expected)
  assert log.traffic("third") == (0, size, 0)
  assert log.traffic(BOB) == ((size, size, 0) if mode == "centralised" else (0, 0, 0))
