"""Diagnostics against NumPy by hand, and their general properties."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.reference_fedavg import batch_drawer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedjax_norm import models
from fedjax_norm.data.federated import federate
from fedjax_norm.data.partitions import registry as partitions
from fedjax_norm.evaluation import diagnostics
from fedjax_norm.norm import create

IMAGE = (6, 6, 1)
NUMBERS = st.floats(-100, 100, width=32).map(lambda x: x if abs(x) > 1e-3 else 0.0)
TABLES = hnp.arrays(np.float64, (3, 4), elements=NUMBERS)


def plain(images, ids, strength, noise_key, step_key):
  return jnp.asarray(images, jnp.float32)


def tree(values):
  """Returns a model of three tensors with 4 numbers."""
  return {"a": {"kernel": values[:2].reshape(1, 2), "bias": values[2:3]}, "scale": values[3]}


@pytest.mark.parametrize(
  ("values", "expected"),
  [
    ([[1.0, 0.0, 4.0], [3.0, 0.0, 4.0]], [1.0, 0.0, 0.0]),
    # the pairs (1, 3), (1, -2) and (3, -2): 2 / 2, 3 / 0.5, 5 / 0.5
    ([[1.0], [3.0], [-2.0]], [(1 + 6 + 10) / 3]),
    ([[1.0], [-1.0]], [np.inf]),
  ],
)
def test_divergence_by_hand(values, expected):
  np.testing.assert_allclose(diagnostics.divergence(np.array(values)), expected)


def test_deltas_by_hand():
  weights = tree(np.array([2.0, 0.0, -4.0, 1.0]))
  first, second = tree(np.array([1.0, 9.0, 1.0, 0.0])), tree(np.array([-4.0, 9.0, 0.0, -1.0]))
  # the second weight is 0 and ignored: (1/2 + 1/4 + 0) / 3 and (2 + 0 + 1) / 3
  assert diagnostics.residual_update_delta([first, second], weights) == pytest.approx(0.625)
  # |1-2|/2, |1+4|/4, |0-1|/1 and |-4-2|/2, |0+4|/4, |-1-1|/1
  expected = np.mean([(0.5 + 1.25 + 1) / 3, (3 + 1 + 2) / 3])
  assert diagnostics.local_update_delta([first, second], weights) == pytest.approx(expected)
  nothing = jax.tree.map(np.zeros_like, weights)
  assert np.isnan(diagnostics.relative_update(first, nothing))


def test_weight_difference_by_hand():
  a, b = tree(np.array([1.0, 0.0, 2.0, 5.0])), tree(np.array([3.0, 0.0, -2.0, 5.0]))
  assert diagnostics.weight_difference([a, b]) == pytest.approx((1 + 0 + 2 + 0) / 4)
  # the pairs (a, b), (a, a), (b, a)
  assert diagnostics.weight_difference([a, b, a]) == pytest.approx(2 * 0.75 / 3)


@given(values=TABLES, factor=st.sampled_from([-4.0, 0.5, 1024.0]))
@settings(max_examples=40)
def test_equal_partitions_have_no_difference_and_scaling_changes_nothing(values, factor):
  same, weights = [tree(values[0])] * 3, tree(values[1])
  assert not diagnostics.divergence(np.stack([values[0]] * 3)).any()
  assert diagnostics.weight_difference(same) == 0
  delta = diagnostics.local_update_delta(same, same[0])
  assert delta == 0 or (np.isnan(delta) and not values[0].any())
  nothing = diagnostics.residual_update_delta([jax.tree.map(np.zeros_like, weights)], weights)
  assert nothing == 0 or np.isnan(nothing)

  different = [tree(row) for row in values]
  scaled = [tree(factor * row) for row in values]
  for measure in (
    lambda models, _: diagnostics.weight_difference(models),
    diagnostics.residual_update_delta,
    diagnostics.local_update_delta,
  ):
    before, after = measure(different, weights), measure(scaled, tree(factor * values[1]))
    np.testing.assert_allclose(after, before)
  np.testing.assert_allclose(
    diagnostics.divergence(factor * values), diagnostics.divergence(values)
  )
  assert 0 <= diagnostics.weight_difference(different) <= 2


@given(values=TABLES, order=st.permutations(range(3)))
@settings(max_examples=20)
def test_the_order_of_partitions_does_not_matter(values, order):
  shuffled = values[list(order)]
  np.testing.assert_allclose(diagnostics.divergence(shuffled), diagnostics.divergence(values))
  np.testing.assert_allclose(
    diagnostics.weight_difference([tree(row) for row in shuffled]),
    diagnostics.weight_difference([tree(row) for row in values]),
  )


def test_one_partition_is_refused():
  with pytest.raises(ValueError, match="two partitions"):
    diagnostics.divergence(np.zeros((1, 3)))
  with pytest.raises(ValueError, match="two partitions"):
    diagnostics.weight_difference([{}])


@pytest.mark.parametrize("name", ["bn", "gn", "none"])
def test_positions_of_all_norms_first_to_last(name):
  norm = create(name, groups=8 if name == "gn" else None)
  tiny = models.create("tiny", norm, 4, IMAGE)
  assert diagnostics.norm_positions(tiny, IMAGE) == ("Norm_0", "Norm_1", "Norm_2")


def test_positions_of_blocks_are_in_the_order_of_the_forward_pass():
  net = models.create("resnet20", create("none"), 4, (8, 8, 1))
  positions = diagnostics.norm_positions(net, (8, 8, 1))
  assert positions[:3] == ("Norm_0", "Block_0/Norm_0", "Block_0/Norm_1")
  assert positions[-1] == "Block_8/Norm_1"
  assert len(positions) == 19


@pytest.fixture(scope="module")
def federation(tiny_source):
  """Two unequal clients, so that an epoch ends with a partial batch."""
  owners = (np.arange(60) >= 22).astype(np.int32)
  division = partitions.make("natural", tiny_source.train.labels, 2, 0, clients=owners)
  return federate(tiny_source.train, division)


@pytest.mark.parametrize("name", ["bn", "none"])
def test_minibatch_moments_are_the_means_over_batches(federation, tiny_net, name):
  """Applies the convolution before the first norm by hand to each drawn batch."""
  model = tiny_net(norm=create(name), dropout=0.5)  # dropout would need a key
  variables = models.init(model, jax.random.key(1), IMAGE)
  key, batches = jax.random.key(2), 5
  moments = diagnostics.make_minibatch_moments(model, ("Norm_0",), 8, plain)
  result = jax.jit(moments)(variables, federation, 0, batches, jnp.int32(0), key)["Norm_0"]
  kernel = np.asarray(variables["params"]["Conv_0"]["kernel"], np.float64)
  bias = np.asarray(variables["params"]["Conv_0"].get("bias", np.zeros(8)), np.float64)
  means, variances = [], []
  drawn = batch_drawer(federation, 8, plain, key)
  for step in range(batches):
    batch = jax.tree.map(np.asarray, drawn(0, step))
    images = batch.images[batch.mask > 0].astype(np.float64)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = bias + sum(
      padded[:, i : i + 6, j : j + 6] @ kernel[i, j]
      for i, j in itertools.product(range(3), range(3))
    )
    means.append(out.mean((0, 1, 2)))
    variances.append(out.var((0, 1, 2)))
  assert batch.mask.sum() == 8
  np.testing.assert_allclose(result.mean, np.mean(means, 0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(result.variance, np.mean(variances, 0), rtol=1e-4, atol=1e-6)


def test_neuron_difference_by_hand(tiny_net):
  """The difference is 2 for opposite signs, 1 for a factor of 3 and 0 for equal channels."""
  model = tiny_net(norm=create("none"))
  variables = jax.tree.map(np.asarray, models.init(model, jax.random.key(1), IMAGE))
  kernel = variables["params"]["Conv_0"]["kernel"]
  factors = np.array([-1.0, 3.0, 1, 1, 1, 1, 1, 1], np.float32)
  layer = {**variables["params"]["Conv_0"], "kernel": kernel * factors}
  other = {"params": {**variables["params"], "Conv_0": layer}}
  images = jnp.asarray(np.random.default_rng(0).uniform(size=(3, *IMAGE)), jnp.float32)
  compare = jax.jit(
    lambda a, b: diagnostics.neuron_difference(model, ("Norm_0",), a, b, images)["Norm_0"]
  )
  np.testing.assert_allclose(compare(variables, other), (2 + 1) / 8, rtol=1e-5)
  assert compare(variables, variables) == 0


def test_small_changes_of_weights_can_be_large_changes_of_neurons(tiny_net):
  """If inputs nearly cancel, a small change of a weight changes a neuron much (app. G)."""
  model = tiny_net(norm=create("none"))
  variables = jax.tree.map(np.array, models.init(model, jax.random.key(1), IMAGE))
  kernel = variables["params"]["Conv_0"]["kernel"]
  kernel[:] = 0
  kernel[1, 1], kernel[1, 0] = 1.0, -1.005  # a constant image gives -0.005 per neuron
  moved = jax.tree.map(np.copy, variables)
  moved["params"]["Conv_0"]["kernel"][1, 1] *= 1.02  # now +0.015
  images = jnp.ones((1, *IMAGE), jnp.float32)
  compare = jax.jit(
    lambda a, b: diagnostics.neuron_difference(model, ("Norm_0",), a, b, images)["Norm_0"]
  )
  neurons = compare(variables, moved)
  weights = diagnostics.weight_difference([variables["params"], moved["params"]])
  assert float(neurons) > 1 > 0.01 > weights > 0
