"""The ledger against the messages of a step, and the cost as paper 000 counts it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.collectives import collectives
from helpers.settings import plain

from fedjax_norm import models, norm, tree_leaves
from fedjax_norm.algorithms.costs import ledger
from fedjax_norm.algorithms.costs.ledger import Cost, Traffic, exchange_cost, model_shapes
from fedjax_norm.local_training import make_gradient
from fedjax_norm.typing import Batch

IMAGE = (8, 8, 3)


ACROSS = {
  "sync_bn": norm.create("sync_bn"),
  "in groups": norm.NormSpec("own", "NSK", groups=4, across_clients=True),
  "centred": norm.NormSpec("own", "NSK", group_size=8, across_clients=True, scale=False),
  "default groups": norm.NormSpec("own", "NSK", across_clients=True),
}


def step_messages(name, axes, spec=ACROSS["sync_bn"]):
  """Returns (model, messages that a client sends for its norm layers in one step)."""
  model = models.create(name, spec, 10, IMAGE)
  shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0), IMAGE))
  gradient = make_gradient(model.clone(norm=model.norm.bind(axes)), plain(batch_size=2), axes)
  batch = Batch(jnp.zeros((2, *IMAGE)), jnp.zeros(2, jnp.int32), jnp.ones(2))

  def step(params, stats):
    return gradient(params, stats, batch, jnp.int32(0), jax.random.key(0))

  jaxpr = jax.make_jaxpr(step, axis_env=[(axis, 2) for axis in axes])
  sent = list(collectives(jaxpr(shapes["params"], shapes["batch_stats"]).jaxpr))
  # Removes the number of examples, which each layer's message already includes.
  (count,) = (message for message in sent if message.elements == 1)
  sent.remove(count)
  return model, sent


@pytest.mark.parametrize(
  ("name", "norm"), [("resnet10", "sync_bn"), *(("tiny", norm) for norm in ACROSS)]
)
def test_the_ledger_counts_the_messages_of_a_step(name, norm):
  model, sent = step_messages(name, ("nodes",), ACROSS[norm])
  up, down, trips = ledger.lockstep_cost(
    model.norm, list(models.norm_modules(model, IMAGE).values())
  )
  assert up == down == sum(message.bytes for message in sent)
  assert trips == len(sent)
  assert trips == 2 * {"tiny": 3, "resnet10": 12}[name]
  params = model_shapes(model, IMAGE)["params"]
  cost = exchange_cost(model, IMAGE, "mean", params, params)
  assert cost[2:5] == (up, down, trips)


def test_nested_axes_send_each_message_once():
  """Only messages between devices count, and they are as large as those over one axis."""
  _, flat = step_messages("tiny", ("nodes",))
  _, nested = step_messages("tiny", ("devices", "nodes"))
  across = [message.bytes for message in nested if "devices" in message.axes]
  assert across == [message.bytes for message in flat]
  within = [message for message in nested if "devices" not in message.axes]
  assert len(within) == 3  # the gathers of the three layers


def test_lockstep_cost_by_hand():
  """A count, means and m2 forward, two sums backward, 4 bytes each."""
  spec = norm.create("sync_bn")
  one_way = 4 * ((1 + 5 + 5) + (5 + 5)) + 4 * ((1 + 7 + 7) + (7 + 7))
  assert ledger.lockstep_cost(spec, [5, 7]) == (one_way, one_way, 4)
  assert ledger.lockstep_cost(spec.bind(("nodes",)), [5, 7]) == (one_way, one_way, 4)
  for other in (norm.create("bn"), norm.create("gn", groups=1), spec.frozen()):
    assert ledger.lockstep_cost(other, [5, 7]) == (0, 0, 0)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_cost_as_the_paper_counts_it(steps):
  """2 n + 1 round trips per step: mean and variance of each layer, and once the gradient."""
  spec, channels = norm.create("sync_bn"), [5, 7, 9]
  cost = Cost(1000, 2000, *ledger.lockstep_cost(spec, channels))
  paper = ledger.paper_cost(cost, spec, channels)
  extra = 4 * 2 * (5 + 7 + 9)
  assert paper.of_round([steps] * 4) == Traffic(
    4 * (1000 + steps * extra), 4 * (2000 + steps * extra), 2 * 3 * steps + 1
  )
  # The paper does not count the exchange for the exact gradient, nor a count per layer.
  assert cost.step_up - paper.step_up == 4 * (2 * (5 + 7 + 9) + 3)
  assert ledger.paper_cost(Cost(1, 2), norm.create("bn"), channels) == Cost(1, 2)
  assert ledger.paper_cost(Cost(1, 2), spec.frozen(), channels) == Cost(1, 2)


def test_a_round_waits_for_the_client_with_the_most_steps():
  traffic = Cost(10, 20, 3, 4, 2).of_round([2, 0, 5])
  assert traffic == Traffic(30 + 3 * 7, 60 + 4 * 7, 1 + 2 * 5)
  assert Cost(10, 20).of_round([2, 0, 5]) == Traffic(30, 60, 1)
  assert traffic + Traffic(1, 2, 3) == Traffic(52, 90, 14)


def test_the_bytes_of_parameters():
  params = {"a": {"kernel": np.zeros((3, 2), np.float32)}, "b": np.zeros(5, np.float16)}
  assert tree_leaves.num_bytes(params) == 24 + 10
