"""Workload (b) in the library and in the PyTorch loop, through the functions that are timed.

Its clients are of equal size, or of unequal size as in workload (g).
"""

import dataclasses

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks import workloads
from benchmarks.export import export
from benchmarks.peers import ours, torch_models
from benchmarks.peers.torch_loop import Loop


# Of a round the library tells one loss, the mean of its steps: with one step a round, that of each
# step. Momentum, which starts anew each round, is seen in rounds of several steps. With 0 a client
# goes once through its own number of examples, whose last batch is smaller.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # by torch.compile
@pytest.mark.parametrize(
  ("model", "variant", "local_steps"),
  [
    ("tiny", "nchw", 0),
    pytest.param("tiny", "compiled", 0, marks=pytest.mark.long),
    pytest.param("tiny", "channels_last", 5, marks=pytest.mark.long),
    pytest.param("resnet20", "nchw", 1, marks=pytest.mark.long),
  ],
)
def test_local_steps_have_the_losses_and_the_weights_of_the_pytorch_loop(
  model, variant, local_steps, tmp_path
):
  (full,) = workloads.table("b", "full", accelerator=False)
  small = full._replace(
    data=workloads.Data("artificial", (8, 8, 3), 16),
    model=model,
    clients=3,
    cohort=3,
    batch_size=16 if local_steps else 5,
    local_steps=local_steps,
    samples=10 // (local_steps or 3) - 1,
    alpha=0.0 if local_steps else 0.5,
  )
  export(small, tmp_path)
  job = small.job(str(tmp_path), threads=1)
  assert (full.model, job.groups, job.momentum) == ("resnet20", 8, 0.9)
  sizes = [len(ids) for ids in ours.jobs.client_ids(job)]
  assert (len(set(sizes)), sum(sizes)) == (1 if local_steps else 3, 48)
  assert local_steps or any(size % job.batch_size for size in sizes)
  assert job.rounds * (local_steps or 3) in (9, 10)

  loop = Loop(dataclasses.replace(job, variant=variant))
  for round_ in range(job.rounds):
    loop.run_round(round_)
  theirs = np.array([float(loss) for loss in loop.losses])
  outcome, result = ours.run(job)

  np.testing.assert_allclose(result.losses, theirs, rtol=1e-5)
  trained = flatten_dict(outcome.variables["params"], sep="/")
  expected = torch_models.build(job, small.data.image_shape, trained)
  moved = 0.0
  start = torch_models.build(job, small.data.image_shape, ours.jobs.weights(job))
  for (name, want), old, have in zip(
    expected.named_parameters(), start.parameters(), loop.server, strict=True
  ):
    np.testing.assert_allclose(have, want.detach(), rtol=1e-3, atol=1e-4, err_msg=name)
    moved = max(moved, float((want - old).detach().abs().max()))
  assert moved > 1e-2
