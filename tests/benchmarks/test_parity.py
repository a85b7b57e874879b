"""Workload (b) in the library and in the PyTorch loop, through the functions that are timed."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks import workloads
from benchmarks.export import export
from benchmarks.peers import ours, torch_models
from benchmarks.peers.torch_loop import Loop


# Of a round the library tells one loss, the mean of its steps: with one step a round, that of each
# step. Momentum, which starts anew each round, is seen in rounds of five steps.
@pytest.mark.parametrize(
  ("model", "local_steps"), [pytest.param("resnet20", 1, marks=pytest.mark.long), ("tiny", 5)]
)
def test_ten_local_steps_have_the_losses_and_the_weights_of_the_pytorch_loop(
  model, local_steps, tmp_path
):
  (full,) = workloads.table("b", "full", accelerator=False)
  small = full._replace(
    data=workloads.Data("artificial", (8, 8, 3), 16),
    model=model,
    clients=3,
    cohort=3,
    batch_size=16,
    local_steps=local_steps,
    samples=10 // local_steps - 1,
  )
  export(small, tmp_path)
  job = small.job(str(tmp_path), threads=1)
  assert (full.model, job.groups, job.momentum) == ("resnet20", 8, 0.9)
  assert job.rounds * job.local_steps == 10

  loop = Loop(job)
  for round_ in range(job.rounds):
    loop.run_round(round_)
  theirs = np.array([float(loss) for loss in loop.losses])
  outcome, result = ours.run(job)

  expected_losses = theirs.reshape(-1, local_steps).mean(1)
  np.testing.assert_allclose(result.losses, expected_losses, rtol=1e-5)
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
