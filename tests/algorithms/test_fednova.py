"""FedNova against its equation in NumPy, and the bytes that it sends."""

import helpers.reference_fedavg as reference
import numpy as np
import pytest
from helpers.norm_rows import ROWS
from helpers.reference_fedavg import flat
from helpers.settings import built, configure, plain
from helpers.step_world import KEY, run_rounds, skewed

from fedjax_norm import client_mapping, tree_leaves
from fedjax_norm.algorithms.fednova import FEDNOVA
from fedjax_norm.data.transforms.preprocess import Preprocess, make_transforms

SIZES = (5, 9, 13, 4)  # with batches of 4: 2, 3, 4 and 1 steps an epoch
SHAPE, ROUNDS, RATE = (6, 6, 1), 3, 0.05
HEAVY = {"momentum": 0.9, "weighting": "uniform", "server_lr": 0.7}
CASES = [("bn", {}), ("gn", HEAVY), ("gn", {"momentum": 0.8, "nesterov": True})]


def coefficients(config, steps):
  """Returns a_i: the weight of each gradient in the sum of all updates."""
  total, trace = np.zeros(steps), np.zeros(steps)
  for gradient in np.eye(steps):
    trace = config.momentum * trace + gradient
    total += gradient + config.momentum * trace if config.nesterov else trace
  return total


@pytest.mark.parametrize(("norm", "options"), CASES)
def test_equals_the_equation(tiny_source, tiny_net, norm, options):
  config = configure(FEDNOVA.config, plain(batch_size=4), local_epochs=1, **options)
  data, model = skewed(tiny_source, SIZES), tiny_net(norm=ROWS[norm].spec(norm))
  transform = make_transforms(Preprocess(augment="none"), tiny_source.train.images)[0]
  mapping = client_mapping.create("vmap", num_clients=4)
  algorithm = built(FEDNOVA, config, model, mapping, data, transform, SHAPE)
  variables = reference.random_variables(model, SHAPE)
  servers = run_rounds(algorithm, variables, data, np.full(ROUNDS, RATE, np.float32))[0]
  actual, x = flat(servers.variables["params"]), flat(variables["params"])
  stats = flat(variables.get("batch_stats", {}))  # training does not use them
  draw = reference.batch_drawer(data, 4, transform, KEY)
  p = SIZES if config.weighting == "examples" else (1, 1, 1, 1)
  for number in range(ROUNDS):
    d, norms = [], []
    for i, size in enumerate(SIZES):
      steps, y, trace = -(-size // 4), x, {path: np.zeros_like(leaf) for path, leaf in x.items()}
      for step in range(number * steps, (number + 1) * steps):
        grads, _ = reference.batch_gradient(model, y, stats, draw(i, step))
        y, trace = reference.sgd_step(config, y, trace, grads, x, RATE)
      norms.append(coefficients(config, steps).sum())
      d.append({path: (x[path] - y[path]) / (RATE * norms[-1]) for path in x})
    mean, tau_eff = reference.weighted_mean(d, p), np.average(norms, weights=p)
    x = {path: x[path] - config.server_lr * tau_eff * RATE * mean[path] for path in x}
    for path, leaf in x.items():
      np.testing.assert_allclose(actual[path][number], leaf, rtol=1e-4, atol=1e-5, err_msg=path)
  model_bytes = tree_leaves.num_bytes(variables)
  assert (algorithm.cost.up, algorithm.cost.down) == (model_bytes + 4, model_bytes)  # |a_i|_1
