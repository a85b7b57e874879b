"""The peers' PyTorch models are the library's, parameter for parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks import workloads
from benchmarks.peers import torch_models
from fedjax_norm import models, norm
from fedjax_norm.norm import Mode

BY_KEY = {one.key: one for one in workloads.table("abcdh", "full", accelerator=False)}


@pytest.mark.parametrize(
  ("key", "shape"),
  [("a", (10, 14, 3)), ("b", (8, 12, 3)), ("c", (6, 8, 1)), ("d", (8, 8, 2)), ("h", (16, 20, 3))],
)
def test_the_same_weights_give_the_same_logits(key, shape):
  job = BY_KEY[key].job("", 1)
  spec = norm.create("gn", groups=job.groups) if job.groups else norm.create("none")
  model = models.create(job.model, spec, job.num_classes, shape)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0), shape))["params"]
  weights = {
    path: (rng.standard_normal(leaf.shape) / np.sqrt(max(leaf.size // leaf.shape[-1], 1))).astype(
      np.float32
    )
    for path, leaf in flatten_dict(shapes, sep="/").items()
  }
  stored = rng.integers(0, 256, (3, *shape), np.uint8)
  variables = {"params": unflatten_dict(weights, sep="/")}
  apply = jax.jit(lambda variables, x: model.apply(variables, x, Mode()))
  ours = apply(variables, jnp.asarray(stored, jnp.float32) / 255)
  images = torch_models.to_float(torch_models.mirrored(stored))
  theirs = torch_models.build(job, shape, weights).eval()(images)
  assert np.ptp(ours) > 0.1
  np.testing.assert_allclose(theirs.detach(), ours, rtol=1e-4, atol=1e-5)
