"""Steps of a cut model against steps of the whole model, under every norm."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.settings import configure
from helpers.split_world import IMAGE, LABEL, LOCAL, SHAPE, initial, momenta, net

from fedjax_norm import norm
from fedjax_norm.local_training import make_gradient, optimizer
from fedjax_norm.split.config import SplitConfig
from fedjax_norm.split.plan import join
from fedjax_norm.split.rules import make_rules
from fedjax_norm.split.step import deliver, step
from fedjax_norm.typing import Batch

RATE = np.float32(0.1)


def batches():
  """Yields two minibatches of different images; the second is not full."""
  rng = np.random.default_rng(0)
  for real in (4, 3):
    images = jnp.asarray(rng.normal(size=(4, *SHAPE)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 4, 4), jnp.int32)
    yield Batch(images, labels, jnp.float32(jnp.arange(4) < real))


@pytest.mark.parametrize("name", [*(n for n in norm.NAMES if n != "sync_bn"), "frozen"])
@pytest.mark.parametrize("ends", [{"cut": "conv"}, {"cut": "conv", "tail": "mix"}])
def test_steps_equal_those_of_the_whole_model(name, ends):
  model = net(name)
  variables = initial(model)
  rules = make_rules(model, configure(SplitConfig, LOCAL, **ends), IMAGE, LABEL)
  state = rules.init(variables)
  parts = rules.begin(state, rules.init_client(state))
  sgd, gradient = optimizer(LOCAL), make_gradient(model, LOCAL)
  whole, opt_state = variables, sgd.init(variables["params"])
  with jax.disable_jit():  # a few small steps take less time than compilation
    for index, batch in enumerate(batches()):
      time, key = np.float32(index), jax.random.key(index)
      done = step(
        rules.plan, rules.parties, rules.loss_gradient, None, deliver, parts, batch, time, key, RATE
      )
      parts = done.parts
      grads, stats, metrics = gradient(
        whole["params"], whole.get("batch_stats", {}), batch, time, key
      )
      updates, opt_state = sgd.update(grads, opt_state, whole["params"])
      params = optax.apply_updates(whole["params"], optax.tree.scale(-RATE, updates))
      whole = {"params": params, **({"batch_stats": stats} if stats else {})}
      chex.assert_trees_all_close(done.metrics, metrics, rtol=1e-5)
  after = momenta([part.opt_state for part in parts])
  chex.assert_trees_all_close(after, momenta(opt_state), atol=2e-6)
  chex.assert_trees_all_close(join([part.variables for part in parts]), whole, atol=2e-6)
